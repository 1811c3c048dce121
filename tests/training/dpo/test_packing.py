"""Packed rows and both scorers against separate sequences, all their logits and a softmax. T3, T6, T10, T11."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from tests.training.dpo import tiny
from training.dpo import data, llama, metrics, model, objective, pack, reference, score, spec
from training.dpo.data import Row, Triple

LONG = (1, *range(5, 25), 2)
ROWS = [
    Row(LONG, (7, 11, 30, tiny.END)),
    Row(LONG, (7, 11, 31, 12, 13, 14)),
    Row(LONG, (7, 11)),
    Row((2,), (8,)),
    Row((2,), (9, 10)),
    Row((1, 12, 2), (13, 13, 13, 13, 13, 13, 13)),
    Row((1, 12, 2, 13), (13, tiny.END), silent=(1,)),
    Row((1, 12, 2, 13), (14, 15, 16), silent=(0, 2)),
]
SCORERS = [score.Plain, score.Fast]


@pytest.fixture
def policy(tmp_path: Path) -> PeftModel:
    """A tiny Llama whose adapter says something."""
    tiny.base_save(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(tiny.spec(tmp_path)))
    found = model.policy_load(spec.read(path))
    torch.manual_seed(1)
    for name, weight in model.trainable(found).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return found


def alone(policy: torch.nn.Module, row: Row) -> Tensor:
    """Return the log-probabilities of a row's scored tokens, computed with no trick at all."""
    ids = torch.tensor([[*row.prompt, *row.completion]])
    log_probs = policy(ids).logits[0].log_softmax(-1)
    where = [len(row.prompt) + index for index in row.scored]
    return torch.stack([log_probs[position - 1, ids[0, position]] for position in where])


def gradients(policy: torch.nn.Module) -> dict[str, Tensor]:
    """Return the gradients of what is trained, and forget them."""
    found = {name: weight.grad for name, weight in model.trainable(policy).items()}
    policy.zero_grad()
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def packed_backward(policy: PeftModel, kind: type, rows: list[Row]) -> dict[Row, float]:
    """Return S of each row in one pack, and add the gradients of their sum, each times 2 + its number in ROWS."""
    packed = pack.pack(rows)
    sums = packed.sums(kind(policy).log_probs(packed))
    (sums * torch.tensor([2 + ROWS.index(row) for row in packed.rows])).sum().backward()
    return dict(zip(packed.rows, sums.tolist(), strict=True))


@pytest.mark.parametrize("kind", SCORERS)
class TestLogProbs:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_of_a_shared_row_are_those_of_separate_sequences(
        self, policy: PeftModel, kind: type, seed: int
    ) -> None:
        expected = [alone(policy, row).sum() for row in ROWS]
        sum(total * (2 + number) for number, total in enumerate(expected)).backward()
        wanted = gradients(policy)
        rows = random.Random(seed).sample(ROWS, len(ROWS))

        found = packed_backward(policy, kind, rows)

        for row, total in zip(ROWS, expected, strict=True):
            assert found[row] == pytest.approx(total.item(), abs=1e-5)
        for name, gradient in gradients(policy).items():
            scale = float(wanted[name].abs().max())
            torch.testing.assert_close(gradient, wanted[name], atol=1e-5 * scale, rtol=0)

    def test_of_a_shared_row_are_those_of_rows_of_their_own_in_float64(
        self, policy: PeftModel, kind: type
    ) -> None:
        policy = policy.double()
        if kind is score.Plain:
            pytest.skip("transformers normalises in float32 whatever the weights are")
        expected = {row: packed_backward(policy, kind, [row])[row] for row in ROWS}
        wanted = gradients(policy)

        found = packed_backward(policy, kind, ROWS)

        assert found == pytest.approx(expected, abs=1e-10)
        for name, gradient in gradients(policy).items():
            torch.testing.assert_close(gradient, wanted[name], atol=1e-10, rtol=0)

    def test_come_token_by_token(self, policy: PeftModel, kind: type) -> None:
        for row in ROWS:
            with torch.no_grad():
                found = kind(policy).log_probs(pack.pack([row]))
                expected = alone(policy, row)

            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    def test_do_not_depend_on_neighbours(self, policy: PeftModel, kind: type) -> None:
        other = [Row(LONG, (30, 30, 30)), Row((2,), (31, 31, 31)), Row((3, 3), (5,))]
        by = kind(policy)
        with torch.no_grad():
            packed, changed = pack.pack(ROWS), pack.pack([*other, *ROWS])
            before = dict(zip(packed.rows, packed.sums(by.log_probs(packed)), strict=True))
            after = dict(zip(changed.rows, changed.sums(by.log_probs(changed)), strict=True))

        for row in ROWS:
            assert after[row].item() == pytest.approx(before[row].item(), abs=1e-5)

    def test_are_the_bases_without_the_adapter(self, policy: PeftModel, kind: type) -> None:
        packed, by = pack.pack(ROWS), kind(policy)
        with torch.no_grad(), policy.disable_adapter():
            expected = torch.stack([alone(policy, row).sum() for row in packed.rows])
        with torch.no_grad():
            before = by.log_probs(packed, adapter=False)
            for weight in policy.parameters():
                if weight.requires_grad:
                    weight.mul_(2)
            adapted = by.log_probs(packed)

            # Training, like this here, does not move the reference.
            assert torch.equal(by.log_probs(packed, adapter=False), before)

        torch.testing.assert_close(packed.sums(before), expected, atol=1e-5, rtol=0)
        assert (adapted - before).abs().max() > 1e-2

    def test_follow_the_adapter(self, policy: PeftModel, kind: type) -> None:
        packed, by = pack.pack(ROWS), kind(policy)
        with torch.no_grad():
            before = by.log_probs(packed)
            for name, weight in model.trainable(policy).items():
                if "lora_B" in name:
                    weight.zero_()

            assert (by.log_probs(packed) - before).abs().max() > 1e-2
            torch.testing.assert_close(
                by.log_probs(packed), by.log_probs(packed, adapter=False), atol=1e-6, rtol=0
            )

    def test_lie_close_to_float64(self, policy: PeftModel, kind: type) -> None:
        packed = pack.pack(ROWS)
        with torch.no_grad():
            exact = kind(copy.deepcopy(policy).double()).log_probs(packed)

            found = kind(policy).log_probs(packed)

        assert (found - exact).abs().max() < 1e-5


class TestHead:
    def test_computes_the_softmax_in_float32_when_weights_are_not(self, policy: PeftModel) -> None:
        packed = pack.pack(ROWS)
        with torch.no_grad():
            exact = score.Plain(policy).log_probs(packed)

            found = score.Plain(policy.bfloat16()).log_probs(packed)

        assert found.dtype == torch.float32
        assert (found - exact).abs().max() < 0.3
        # No bfloat16 lies between: float32 was kept all the way.
        assert not torch.equal(found, found.bfloat16().float())

    @pytest.mark.parametrize("rows_at_once", [1, 3, 100])
    def test_needs_no_more_than_a_chunk(
        self, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
    ) -> None:
        monkeypatch.setattr(score, "LOGITS", rows_at_once * 11)
        torch.manual_seed(0)
        hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
        head = torch.randn(11, 5, dtype=torch.float64)
        targets = torch.tensor([0, 10, 3, 3, 4, 9, 1])

        assert torch.autograd.gradcheck(
            lambda given: score.HeadLogProbs.apply(given, head, targets), (hidden,)
        )
        torch.testing.assert_close(
            score.HeadLogProbs.apply(hidden, head, targets),
            (hidden @ head.t()).log_softmax(-1).gather(1, targets[:, None])[:, 0],
        )


class TestScorer:
    def test_is_the_fast_one_for_a_llama(self, policy: PeftModel) -> None:
        assert isinstance(score.scorer(policy), score.Fast)

    def test_is_the_plain_one_where_the_fast_one_computes_something_else(
        self, policy: PeftModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = llama.Llama.hidden
        monkeypatch.setattr(
            llama.Llama, "hidden", lambda *given, **named: 1.01 * right(*given, **named)
        )

        assert isinstance(score.scorer(policy), score.Plain)

    @pytest.mark.parametrize(
        "changes",
        [
            {"model_type": "gemma"},
            {"hidden_act": "gelu"},
            {"sliding_window": 128},
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        ],
    )
    def test_is_the_plain_one_for_what_differs(self, policy: PeftModel, changes: dict) -> None:
        for name, value in changes.items():
            setattr(policy.config, name, value)

        assert not llama.covers(policy)

    def test_takes_another_family(self) -> None:
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=44, n_embd=32, n_layer=2, n_head=2, n_positions=64, attn_pdrop=0.0, embd_pdrop=0.0,
            resid_pdrop=0.0,
        )  # fmt: skip
        gpt = GPT2LMHeadModel(config).eval()
        packed = pack.pack(ROWS)
        with torch.no_grad():
            found = packed.sums(score.Plain(gpt).log_probs(packed))
            expected = torch.stack([alone(gpt, row).sum() for row in packed.rows])

        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def triples() -> list[Triple]:
    """Six triples of three prompts, of unequal lengths, weights and targets."""
    weights = [1.0, 3.0, 0.5, 1.0, 2.0, 1.0]
    targets = [1.0, 0.85, 0.5, 0.0, 1.0, 0.5]
    return [
        Triple(
            chosen=Row((1, 6 + number % 3, 2), tuple(range(5, 7 + number))),
            rejected=Row((1, 6 + number % 3, 2), (20, tiny.END)),
            target=target,
            weight=weight,
        )
        for number, (target, weight) in enumerate(zip(targets, weights, strict=True))
    ]


class TestBatchScore:
    @pytest.mark.parametrize("kind", SCORERS)
    @pytest.mark.parametrize("budget", [1, 20, 31])
    def test_gives_loss_metrics_and_gradients_of_the_whole_batch(
        self, policy: PeftModel, tmp_path: Path, kind: type, budget: int
    ) -> None:
        known = reference.Scores(tmp_path / "scores", own="demo-1")
        for triple in triples():
            known.add(triple.chosen, -20.0)
            known.add(triple.rejected, -9.0)
        loss = spec.Loss(**tiny.loss(beta=0.5, ties=True, nll=0.2))
        by = kind(policy)
        whole = objective.batch_score(by, triples(), known, loss, budget=10_000)
        expected = gradients(policy)

        heard: list[int] = []
        found = objective.batch_score(by, triples(), known, loss, budget=budget, each=heard.append)

        assert sum(heard) == 6
        assert len(heard) > 1
        for name, gradient in gradients(policy).items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)
        for name, value in metrics.summary(*whole).items():
            assert metrics.summary(*found)[name] == pytest.approx(value, abs=1e-5), name
        assert not found[0].chosen.requires_grad
        assert not found[1].total.requires_grad


class TestSplit:
    def test_keeps_prompts_whole_and_packs_full(self) -> None:
        # 13 triples of a prompt of 10 and completions of 3: 14 tokens each alone, 4 more for a second one.
        given = [
            Triple(Row((number // 2, *range(9)), (1, 2, number % 2)), Row((number // 2, *range(9)), (2, 2, number % 2)), 1.0, 1.0)
            for number in range(13)
        ]  # fmt: skip

        packs = pack.split(given, budget=40)

        assert sorted(map(id, given)) == sorted(id(triple) for each in packs for triple in each)
        assert [pack.size(each) for each in packs] == [36, 36, 32, 18]
        for each in packs:
            for other in packs:
                prompts = [{triple.chosen.prompt for triple in one} for one in (each, other)]
                assert each is other or not prompts[0] & prompts[1]

    def test_cuts_a_prompt_that_has_too_many(self) -> None:
        given = [Triple(Row((1, 2), (number, 3)), Row((1, 2), (number, 4)), 1.0, 1.0) for number in range(9)]  # fmt: skip

        packs = pack.split(given, budget=8)

        assert sum(map(len, packs)) == 9
        assert max(map(pack.size, packs)) == 8

    def test_takes_a_triple_larger_than_the_budget(self) -> None:
        assert pack.split(triples()[:1], budget=1) == [triples()[:1]]
        assert pack.split([], budget=1) == []

    def test_counts_what_sharing_saves(self) -> None:
        given = triples()

        # Prompts of 3 once; the last token of each completion is never read; (20, END) is the same row per prompt.
        completions = sum(len(triple.chosen.completion) - 1 for triple in given) + 3
        assert (
            pack.size(given)
            == 3 * 3 + completions
            == len(pack.pack(r for t in given for r in (t.chosen, t.rejected)).tokens)
        )
        assert pack.size_unshared(given) == sum(3 + len(t.chosen.completion) + 3 + 2 for t in given)


def test_a_batch_puts_the_triples_of_a_prompt_side_by_side() -> None:
    given = triples()

    seen = [
        [
            triple.chosen.prompt
            for step in range(2)
            for triple in data.batch(given, step=step, batch_pairs=3, seed=seed)
        ]
        for seed in range(4)
    ]

    for prompts in seen:
        assert prompts[0] == prompts[1]
        assert prompts[2] == prompts[3]
        assert prompts[4] == prompts[5]
    assert len({tuple(prompts) for prompts in seen}) > 1
