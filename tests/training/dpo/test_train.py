"""Whole rounds on a tiny model, in this process."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.training.dpo import tiny
from training.dpo import __main__ as program
from training.dpo import failures, train
from training.dpo.spec import Optimizer

LINES = [tiny.line(number) for number in range(8)]
HELD_OUT = [tiny.line(number) for number in (100, 101)]
PARENT = "c" * 64
FAST = {"learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 0.0, "clip": 1.0}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.base_save(tmp_path)
    return tmp_path


def run(
    place: Path,
    name: str = "round",
    *,
    snapshot: list[dict[str, Any]] | None = None,
    holdout: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> Path:
    """Run a round; return its folder. The exit code must fit the result."""
    folder = tiny.round_save(
        place / name,
        settings=tiny.spec(place, **changes),
        snapshot=LINES if snapshot is None else snapshot,
        holdout=holdout,
    )
    code = program.main([str(folder)])
    assert code == {"done": 0, "failed": 1}[tiny.result(folder)["outcome"]]
    return folder


def parent_of(place: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Register a round's version under a hash; return the run.json of a round that goes on from it."""
    shutil.copytree(folder / "version", place / PARENT)
    parent = {"path": str(place / PARENT), "sha256": PARENT, "number": 1}
    return {"round": {"model": "demo", "number": 2}, "parent": parent} | changes


def adapter(folder: Path) -> bytes:
    return (folder / "version" / "adapter_model.safetensors").read_bytes()


def by_hand(model: torch.nn.Module, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Return log-probabilities of the tokens after the prompt, by all logits and a softmax."""
    log_probs = model(ids).logits[0, :-1].log_softmax(-1)
    return log_probs.gather(1, ids[0, 1:, None])[prompt - 1 :, 0]


class TestStart:
    @pytest.mark.parametrize("ties", [False, True])
    def test_begins_at_ln_2_to_the_bit(self, place: Path, ties: bool) -> None:
        loss = tiny.loss(ties=ties)
        folder = run(place, loss=loss, holdout=HELD_OUT, epochs=1)

        first, before = tiny.events(folder, "step")[0], tiny.events(folder, "eval")[0]
        for measured in (first, before):
            assert measured["loss"] == pytest.approx(math.log(2) * (2 if ties else 1), abs=1e-6)
            assert measured["margin"] == 0
            assert measured["accuracy"] == 0.5
        assert first["drift_chosen"] == first["drift_rejected"] == 0
        assert first["grad_norm"] > 0

    def test_says_what_it_does_as_the_contract_has_it(self, place: Path) -> None:
        folder = run(place, snapshot=[*LINES, tiny.line(9, chosen_ids=[])], holdout=HELD_OUT)

        found = tiny.events(folder)
        assert found[0] | {"at": 0} == {
            "event": "stage", "at": 0, "stage": "loading", "done": 0, "of": 1,
        }  # fmt: skip
        assert found[-1]["event"] == "end"
        assert found[-1]["outcome"] == "done"
        start = tiny.events(folder, "start")
        assert [each | {"at": 0} for each in start] == [
            {
                "event": "start", "at": 0, "pairs": 8, "holdout": 2, "steps": 4, "epochs": 2,
                "resumed_from": 0, "dropped": {"empty": 1}, "tokenised": 0,
            }
        ]  # fmt: skip
        stages = list(dict.fromkeys(each["stage"] for each in tiny.events(folder, "stage")))
        assert stages == ["loading", "reference", "evaluating", "training", "saving"]
        scored = [each for each in tiny.events(folder, "stage") if each["stage"] == "reference"]
        assert [(each["done"], each["of"]) for each in scored] == [(0, 20), (20, 20)]
        made = tiny.events(folder, "reference")[0]
        # Ten prompts, each with two completions whose last tokens need not be read.
        assert (made["completions"], made["scored"], made["tokens"]) == (20, 20, 10 * (6 + 3 + 5))
        steps = tiny.events(folder, "step")
        assert [each["step"] for each in steps] == [1, 2, 3, 4]
        assert [each["epoch"] for each in steps] == [1, 1, 2, 2]
        assert set(steps[0]) == {
            "event", "at", "step", "of", "epoch", "loss", "loss_preference", "loss_nll", "margin", "margin_p10",
            "margin_p90", "accuracy", "calibration", "drift_chosen", "drift_rejected", "nll_chosen",
            "length_ratio", "ties_margin", "grad_norm", "learning_rate", "pairs", "tokens", "tokens_saved",
            "seconds", "tokens_per_s",
        }  # fmt: skip
        assert steps[0]["tokens"] == 4 * (6 + 3 + 5)
        assert steps[0]["tokens_saved"] == pytest.approx(1 - 14 / 22, abs=1e-4)
        assert [each["step"] for each in tiny.events(folder, "checkpoint")] == [2, 4]
        assert [each["step"] for each in tiny.events(folder, "eval")] == [0, 4]
        assert tiny.result(folder)["dropped"] == {"empty": 1}
        assert tiny.result(folder)["steps"] == 4
        assert tiny.result(folder)["metrics"]["loss"] == steps[-1]["loss"]

    def test_does_nothing_in_a_folder_that_is_done(self, place: Path) -> None:
        folder = run(place)
        before = (folder / "events.jsonl").read_bytes()

        assert program.main([str(folder)]) == 0
        assert (folder / "events.jsonl").read_bytes() == before


class TestLearning:
    def test_learns_eight_pairs_by_heart(self, place: Path) -> None:
        folder = run(place, epochs=30, batch_pairs=8, optimizer=FAST)

        last = tiny.events(folder, "step")[-1]
        assert last["accuracy"] == 1
        assert last["loss"] < 0.1
        assert last["drift_chosen"] > last["drift_rejected"]

    def test_pulls_tied_answers_together(self, place: Path) -> None:
        apart = run(place, "apart", epochs=10, batch_pairs=8, optimizer=FAST)
        ties = [line | {"target": 0.5} for line in LINES]
        loss = tiny.loss(ties=True)
        settings = parent_of(
            place, apart, loss=loss, epochs=15, batch_pairs=8, optimizer=FAST, checkpoint_steps=99
        )

        together = run(place, "together", snapshot=ties, **settings)

        steps = tiny.events(together, "step")
        assert steps[0]["margin"] > 1
        assert abs(steps[-1]["margin"]) < steps[0]["margin"] / 10
        assert steps[-1]["accuracy"] is None

    def test_weights_pairs(self, place: Path) -> None:
        # The same two completions either way round: the heavier triple wins.
        other = LINES[0] | {
            "chosen_ids": LINES[0]["rejected_ids"],
            "rejected_ids": LINES[0]["chosen_ids"],
        }
        folder = run(place, snapshot=[LINES[0], other | {"weight": 4.0}], epochs=20, optimizer=FAST)

        # Of five parts of weight four agree; without weights it would be one of two.
        assert tiny.events(folder, "step")[-1]["accuracy"] == pytest.approx(4 / 5)


class TestReference:
    def test_is_scored_once_and_then_read(self, place: Path) -> None:
        first = run(place, "first")
        second = run(place, "second", round={"model": "demo", "number": 2})

        def scored(folder: Path) -> list[tuple[int, int]]:
            stages = tiny.events(folder, "stage")
            return [(each["done"], each["of"]) for each in stages if each["stage"] == "reference"]

        assert scored(first)[0] == (0, 16)
        assert scored(second) == [(16, 16)]
        assert adapter(first) == adapter(second)
        store = place / "scores" / tiny.BASE
        assert [path.name for path in store.iterdir()] == ["demo-1.json"]

    def test_takes_what_the_store_says(self, place: Path) -> None:
        run(place, "first")
        path = place / "scores" / tiny.BASE / "demo-1.json"
        known = json.loads(path.read_text())["log_probs"]
        path.write_text(json.dumps({"log_probs": dict.fromkeys(known, -10.0)}))

        second = run(place, "second", round={"model": "demo", "number": 2})

        assert tiny.events(second, "step")[0]["loss"] != pytest.approx(math.log(2), abs=1e-3)

    def test_survives_a_torn_file_of_the_store(self, place: Path) -> None:
        first = run(place, "first")
        (place / "scores" / tiny.BASE / "demo-1.json").write_text('{"log_pro')

        second = run(place, "second")

        assert adapter(first) == adapter(second)

    def test_is_the_parent_as_it_was_before_training(self, place: Path) -> None:
        parent = run(place, "parent", optimizer=FAST)
        settings = parent_of(place, parent, reference={"kind": "parent", "sha256": PARENT})

        folder = run(place, "child", holdout=HELD_OUT, **settings)

        tensors = load_file(place / PARENT / "adapter_model.safetensors")
        assert all(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
        first = tiny.events(folder, "step")[0]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert (first["margin"], first["accuracy"], first["drift_chosen"]) == (0, 0.5, 0)
        assert (place / "scores" / PARENT / "demo-2.json").exists()

    def test_is_the_base_although_an_adapter_is_continued(self, place: Path) -> None:
        parent = run(place, "parent", optimizer=FAST, epochs=10)

        folder = run(place, "child", **parent_of(place, parent))

        # The parent has learned these pairs, and the reference has not.
        first = tiny.events(folder, "step")[0]
        assert first["accuracy"] == 1
        assert first["drift_chosen"] > 0.1
        scored = [each for each in tiny.events(folder, "stage") if each["stage"] == "reference"]
        assert scored[0]["done"] == 16


class TestVersion:
    @pytest.fixture
    def folder(self, place: Path) -> Path:
        return run(place, holdout=HELD_OUT, optimizer=FAST, epochs=5)

    def test_loads_with_peft_and_scores_as_its_canary_says(self, place: Path, folder: Path) -> None:
        rows = json.loads((folder / "version" / "canary.json").read_text())["rows"]
        base = AutoModelForCausalLM.from_pretrained(place / tiny.BASE).eval()
        loaded = PeftModel.from_pretrained(base, folder / "version").eval()

        assert len(rows) == 3
        for each in rows:
            ids = torch.tensor([each["prompt_ids"] + each["completion_ids"]])
            with torch.no_grad():
                adapted = by_hand(loaded, ids, len(each["prompt_ids"]))
                with loaded.disable_adapter():
                    plain = by_hand(loaded, ids, len(each["prompt_ids"]))
            torch.testing.assert_close(adapted, torch.tensor(each["adapter"]), atol=1e-5, rtol=0)
            torch.testing.assert_close(plain, torch.tensor(each["base"]), atol=1e-5, rtol=0)
            assert (adapted - plain).abs().max() > 1e-2

    def test_is_the_same_to_the_byte_for_the_same_inputs(self, place: Path, folder: Path) -> None:
        other = run(place, "other", holdout=HELD_OUT, optimizer=FAST, epochs=5)

        for path in (folder / "version").iterdir():
            assert path.read_bytes() == (other / "version" / path.name).read_bytes(), path.name

    def test_holds_four_files_and_no_path_of_this_machine(self, place: Path, folder: Path) -> None:
        found = {path.name: path.read_bytes() for path in (folder / "version").iterdir()}

        assert set(found) == {
            "adapter_model.safetensors", "adapter_config.json", "canary.json", "README.md",
        }  # fmt: skip
        assert not [name for name, content in found.items() if str(place).encode() in content]
        config = json.loads(found["adapter_config.json"])
        assert config["r"] == 8
        assert config["lora_dropout"] == 0
        assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]

    def test_tells_its_lineage(self, folder: Path) -> None:
        card = (folder / "version" / "README.md").read_text()

        assert "# demo, round 1" in card
        assert f"| parent | v0 (`{tiny.BASE}`) |" in card
        assert f"| reference | base (`{tiny.BASE}`) |" in card
        assert "| pairs | 8, of which 0 tokenised by the trainer |" in card

    def test_comes_with_an_evaluation(self, folder: Path) -> None:
        found = json.loads((folder / "eval.json").read_text())

        assert found["pairs"] == 2
        assert found["reference"] == "base"
        assert found["before"]["accuracy"] == 0.5
        evaluated = tiny.events(folder, "eval")[-1]
        assert found["after"].items() <= evaluated.items()
        assert {"loss", "accuracy", "margin", "accuracy_low"} <= set(found["after"])
        assert found["after"]["margin"] != 0

    def test_has_no_evaluation_without_held_out_pairs(self, place: Path) -> None:
        folder = run(place, "without")

        assert json.loads((folder / "eval.json").read_text()) == {
            "pairs": 0, "before": None, "after": None, "reference": "base",
        }  # fmt: skip


class TestResume:
    def again(self, folder: Path) -> int:
        """Run in the folder as if the attempt before had been killed while it saved."""
        (folder / "result.json").unlink()
        shutil.rmtree(folder / "version")
        assert program.main([str(folder)]) == 0
        resumed: int = tiny.events(folder, "start")[-1]["resumed_from"]
        return resumed

    def test_goes_on_from_the_last_whole_checkpoint(self, place: Path) -> None:
        folder = run(place, holdout=HELD_OUT)
        before, evaluation = adapter(folder), (folder / "eval.json").read_bytes()
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
            "step-000002",
            "step-000004",
        ]
        torn = folder / "checkpoints" / "step-000004" / "moments.safetensors"
        torn.write_bytes(torn.read_bytes()[:-1])

        assert self.again(folder) == 2
        assert adapter(folder) == before
        assert (folder / "eval.json").read_bytes() == evaluation

    def test_needs_no_step_when_only_saving_was_left(self, place: Path) -> None:
        folder = run(place)
        before, result = adapter(folder), tiny.result(folder)

        assert self.again(folder) == 4
        assert adapter(folder) == before
        assert tiny.result(folder)["metrics"] == result["metrics"]

    def test_leaves_checkpoints_of_another_run_alone(self, place: Path) -> None:
        folder = run(place)
        settings = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(settings | {"seed": 1}))

        assert self.again(folder) == 0


class TestFailures:
    def failed(self, folder: Path) -> str:
        """Return the code of a round that failed, after checking that it left no version."""
        found = tiny.result(folder)
        assert found["outcome"] == "failed"
        assert found["detail"].endswith(".")
        assert not list(folder.glob("version*"))
        assert tiny.events(folder)[-1]["outcome"] == "failed"
        code: str = found["code"]
        return code

    def test_name_settings(self, place: Path) -> None:
        assert self.failed(run(place, epochs=0)) == "spec_invalid"

    def test_name_an_empty_snapshot(self, place: Path) -> None:
        assert self.failed(run(place, "empty", snapshot=[])) == "no_usable_triples"
        folder = run(place, "useless", snapshot=[tiny.line(1, chosen_ids=[])])
        assert self.failed(folder) == "no_usable_triples"
        assert "1 empty" in tiny.result(folder)["detail"]

    def test_name_a_broken_line(self, place: Path) -> None:
        assert self.failed(run(place, snapshot=[{"prompt": "?"}])) == "data_invalid"

    def test_name_a_loss_that_is_not_finite(self, place: Path) -> None:
        settings = parent_of(place, run(place, "parent", epochs=1))
        path = place / PARENT / "adapter_model.safetensors"
        save_file({name: tensor * math.nan for name, tensor in load_file(path).items()}, path)

        folder = run(place, "child", **settings)

        assert self.failed(folder) == "loss_not_finite"
        assert "step 1" in tiny.result(folder)["detail"]

    def test_name_a_base_that_does_not_load(self, place: Path) -> None:
        (place / tiny.BASE / "model.safetensors").write_bytes(b"\x08")

        assert self.failed(run(place)) == "base_mismatch"

    def test_name_targets_that_the_base_does_not_have(self, place: Path) -> None:
        config = place / tiny.BASE / "config.json"
        settings = json.loads(config.read_text())
        gpt = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_head": 1}
        config.write_text(json.dumps(gpt | {"n_layer": 1, "vocab_size": settings["vocab_size"]}))
        from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

        GPT2LMHeadModel(GPT2Config.from_pretrained(place / tiny.BASE)).save_pretrained(
            place / tiny.BASE
        )

        folder = run(place)

        assert self.failed(folder) == "adapter_unsupported"
        assert "q_proj" in tiny.result(folder)["detail"]

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"r": 16}, "parent_mismatch"),
            ({"target_modules": ["q_proj"]}, "parent_mismatch"),
            ({"use_dora": True}, "adapter_unsupported"),
            ({"modules_to_save": ["lm_head"]}, "adapter_unsupported"),
            ({"bias": "all"}, "adapter_unsupported"),
        ],
    )
    def test_name_a_parent_that_cannot_be_continued(
        self, place: Path, changes: dict[str, Any], code: str
    ) -> None:
        settings = parent_of(place, run(place, "parent", epochs=1))
        config = place / PARENT / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))

        assert self.failed(run(place, "child", **settings)) == code

    def test_name_a_parent_that_is_torn(self, place: Path) -> None:
        settings = parent_of(place, run(place, "parent", epochs=1))
        (place / PARENT / "adapter_model.safetensors").write_bytes(b"\x08")

        assert self.failed(run(place, "child", **settings)) == "parent_mismatch"

    @pytest.mark.parametrize("file", [f"scores/{tiny.BASE}/demo-1.json", "round/eval.json"])
    def test_name_a_full_disk(self, place: Path, file: str) -> None:
        folder = tiny.round_save(place / "round", settings=tiny.spec(place), snapshot=LINES)
        draft = place / f"{file}.draft"
        draft.parent.mkdir(parents=True, exist_ok=True)
        # A device on which every write finds the disk full.
        draft.symlink_to("/dev/full")

        assert program.main([str(folder)]) == 1
        assert self.failed(folder) == "no_space"

    def test_are_forgotten_when_the_next_attempt_succeeds(self, place: Path) -> None:
        folder = run(place, snapshot=[])
        (folder / "snapshot.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))

        assert program.main([str(folder)]) == 0
        assert tiny.result(folder)["outcome"] == "done"


class TestNamed:
    def test_knows_memory_that_torch_does_not_get(self) -> None:
        with pytest.raises(RuntimeError) as refused:
            torch.empty(1 << 56)

        assert failures.named(refused.value).code == "out_of_memory"
        assert failures.named(MemoryError()).code == "out_of_memory"

    def test_names_what_nobody_expected(self) -> None:
        found = failures.named(ValueError("odd\nthing"))

        assert found.code == "unexpected"
        assert "ValueError: odd thing" in str(found)


class TestLearningRate:
    def test_rises_and_falls_and_never_is_nothing(self) -> None:
        optimizer = Optimizer(learning_rate=1.0, weight_decay=0.0, warmup=0.2, clip=1.0)

        rates = [train.learning_rate(optimizer, step=step, steps=10) for step in range(10)]

        expected = [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
        assert rates == pytest.approx(expected)
