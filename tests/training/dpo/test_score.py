"""The one way to score, against a computation that knows no tricks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.dpo import tiny
from training.dpo import metrics, objective, reference, score
from training.dpo.data import Row, Triple
from training.dpo.spec import Loss

LOSS = Loss(name="dpo", beta=0.5, ties=True)
ROWS = [
    Row(prompt=(1, 5, 9, 2), completion=(7, 11, 30, tiny.END)),
    Row(prompt=(2,), completion=(8,)),
    Row(prompt=(1, 12, 2), completion=(13, 13, 13, 13, 13, 13, 13)),
]


@pytest.fixture
def model(tmp_path: Path) -> torch.nn.Module:
    base: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tiny.base_save(tmp_path)).eval()
    return base


def triples() -> list[Triple]:
    """Four triples of unequal lengths, weights and targets."""
    return [
        Triple(
            chosen=Row(prompt=(1, 6 + number, 2), completion=tuple(range(5, 7 + number))),
            rejected=Row(prompt=(1, 6 + number, 2), completion=(20, tiny.END)),
            target=target,
            weight=weight,
        )
        for number, (target, weight) in enumerate([(1.0, 1.0), (0.85, 3.0), (0.5, 0.5), (0.0, 1.0)])
    ]


def scores(folder: Path) -> reference.Scores:
    """A reference that is no policy: any numbers."""
    found = reference.Scores(folder / "scores", own="demo-1")
    for number, triple in enumerate(triples()):
        found.add(triple.chosen, -20.0 + number)
        found.add(triple.rejected, -9.0)
    return found


class TestLogProbs:
    @pytest.mark.parametrize("row", ROWS)
    def test_equals_all_logits_and_a_softmax(self, model: torch.nn.Module, row: Row) -> None:
        ids = [*row.prompt, *row.completion]
        with torch.no_grad():
            whole = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = [
            whole[position - 1, ids[position]] for position in range(len(row.prompt), len(ids))
        ]

        found = score.log_probs(model, row)

        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), torch.stack(expected), atol=1e-5, rtol=0, check_dtype=False
        )

    def test_computes_logits_for_the_completion_alone(self, model: torch.nn.Module) -> None:
        seen = []
        model.lm_head.register_forward_hook(lambda _head, given, _out: seen.append(given[0].shape))

        for row in ROWS:
            score.log_probs(model, row)

        assert [shape[1] for shape in seen] == [len(row.completion) for row in ROWS]

    def test_needs_no_gradients_to_be_the_same_to_the_bit(self, model: torch.nn.Module) -> None:
        with torch.no_grad():
            without = score.log_probs(model, ROWS[0])

        assert torch.equal(score.log_probs(model, ROWS[0]), without)

    def test_computes_the_softmax_in_float32_when_weights_are_not(
        self, model: torch.nn.Module
    ) -> None:
        found = score.log_probs(model.bfloat16(), ROWS[0])

        assert found.dtype == torch.float32


class TestScoreTriple:
    def test_is_the_sum_by_hand(self, model: torch.nn.Module, tmp_path: Path) -> None:
        triple, known = triples()[1], scores(tmp_path)

        found = objective.score_triple(model, triple, known, LOSS)

        chosen = score.log_prob(model, triple.chosen).item() + 19.0
        rejected = score.log_prob(model, triple.rejected).item() + 9.0
        margin = 0.5 * (chosen - rejected)
        won = math.log1p(math.exp(-margin / 2))
        lost = math.log1p(math.exp(margin / 2))
        assert found.drift_chosen.item() == pytest.approx(chosen, abs=1e-5)
        assert found.drift_rejected.item() == pytest.approx(rejected, abs=1e-5)
        assert found.margin.item() == pytest.approx(margin, abs=1e-5)
        assert found.loss.item() == pytest.approx(2 * (0.85 * won + 0.15 * lost), abs=1e-5)


class TestBatchBackward:
    def test_gives_the_gradients_of_the_whole_batch(
        self, model: torch.nn.Module, tmp_path: Path
    ) -> None:
        known = scores(tmp_path)
        batch = triples()
        whole = [objective.score_triple(model, triple, known, LOSS) for triple in batch]
        total = sum(item.loss * item.triple.weight for item in whole) / 5.5
        expected = torch.autograd.grad(total, list(model.parameters()))

        found = objective.batch_backward(model, batch, known, LOSS)

        for weight, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(weight.grad, gradient, atol=1e-6, rtol=1e-5)
        assert metrics.summary(found)["loss"] == pytest.approx(total.item(), abs=1e-6)
        assert not any(item.loss.requires_grad or item.margin.requires_grad for item in found)


class TestSummary:
    def scored(self, margin: float, *, target: float, weight: float = 1.0) -> objective.Scored:
        row = Row(prompt=(1,), completion=(2,))
        value = torch.tensor(margin)
        return objective.Scored(
            triple=Triple(chosen=row, rejected=row, target=target, weight=weight),
            loss=value * 2, margin=value, drift_chosen=value * 3, drift_rejected=value * 4,
        )  # fmt: skip

    def test_weighs_pairs_and_leaves_ties_out_of_the_accuracy(self) -> None:
        scored = [
            self.scored(1.0, target=1.0),
            self.scored(-2.0, target=0.85, weight=2.0),
            self.scored(5.0, target=0.5),
            self.scored(-4.0, target=0.2),
            self.scored(1e-6, target=1.0),
        ]

        found = metrics.summary(scored)

        # (1 - 2*2 + 5 - 4) / 6; right are the first, the fourth and half of the fifth, of weight 5.
        assert found["margin"] == pytest.approx(-2 / 6, abs=1e-6)
        assert found["loss"] == pytest.approx(-4 / 6, abs=1e-6)
        assert found["drift_chosen"] == pytest.approx(-1.0, abs=1e-6)
        assert found["drift_rejected"] == pytest.approx(-8 / 6, abs=1e-6)
        assert found["accuracy"] == pytest.approx(2.5 / 5)

    def test_knows_no_accuracy_of_ties(self) -> None:
        assert metrics.summary([self.scored(1.0, target=0.5)])["accuracy"] is None
