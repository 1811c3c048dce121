"""What the machine, the model or the numbers can do to a round: it ends with a reason and without a version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.training.dpo import rounds, tiny

ROOT = Path(__file__).resolve().parents[3]
LINES = [tiny.line(number) for number in range(8)]
#: A file system of its own, in namespaces that end with the command.
MOUNTED = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
#: Fills up when the first checkpoint is saved, and the trainer is run in it; what it left is brought out.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=56k tmpfs "$1"
cp "$2"/* "$1"
"$3" -m training.dpo "$1" >"$2/log.txt" 2>&1 || echo "$?" >"$2/exit"
cp -r "$1"/. "$2"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.base_save(tmp_path)
    return tmp_path


def failed(folder: Path) -> str:
    """Return the code of a round that failed, after checking that it left a sentence and no version."""
    found = tiny.result(folder)
    assert found["outcome"] == "failed"
    assert found["detail"].endswith(".")
    assert not list(folder.glob("version*"))
    assert tiny.events(folder)[-1]["outcome"] == "failed"
    code: str = found["code"]
    return code


class TestDisk:
    def test_that_is_full_ends_the_round(self, place: Path) -> None:
        if subprocess.run([*MOUNTED, "mount -t tmpfs tmpfs /mnt"], check=False).returncode:
            pytest.skip("this machine lets nobody mount")
        folder = tiny.round_save(place / "round", settings=tiny.spec(place), snapshot=LINES)
        disk = place / "disk"
        disk.mkdir()

        subprocess.run(
            [*MOUNTED, ON_A_SMALL_DISK, "sh", str(disk), str(folder), sys.executable],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
        )  # fmt: skip

        assert failed(folder) == "no_space"
        assert (folder / "exit").read_text() == "1\n"
        assert not list((folder / "checkpoints").iterdir())
        # With more space it goes on as if nothing had been.
        assert tiny.result(rounds.finish(folder))["outcome"] == "done"


class TestNumbers:
    @pytest.mark.parametrize("epochs", [1, 3])
    def test_that_are_none_end_the_round(self, place: Path, epochs: int) -> None:
        # One step this long leaves weights whose scores overflow; without held-out pairs only saving would see it.
        folder = rounds.run(
            place, "round", LINES, optimizer=rounds.optimizer(learning_rate=3e37),
            epochs=epochs, batch_pairs=8,
        )  # fmt: skip

        assert failed(folder) == "loss_not_finite"
        assert len(tiny.events(folder, "step")) == 1

    def test_of_a_broken_base_end_the_round(self, place: Path) -> None:
        from safetensors.torch import load_file, save_file  # noqa: PLC0415

        weights = place / tiny.BASE / "model.safetensors"
        tensors = load_file(weights)
        tensors["model.norm.weight"][3] = float("inf")
        save_file(tensors, weights, metadata={"format": "pt"})

        assert failed(rounds.run(place, "round", LINES)) == "loss_not_finite"


class TestTokenizer:
    def texts(self, word: str) -> list[dict[str, Any]]:
        without = {"prompt_ids": None, "chosen_ids": None, "rejected_ids": None}
        answer = {"chosen": [{"role": "assistant", "content": word}]}
        return [tiny.line(number) | without | answer for number in range(3)]

    def test_of_another_model_ends_the_round(self, place: Path) -> None:
        # Its ids go beyond what the model knows.
        tokenizer = AutoTokenizer.from_pretrained(place / tiny.BASE)
        tokenizer.add_tokens(["beyond"])
        tokenizer.save_pretrained(place / tiny.BASE)

        folder = rounds.run(place, "round", self.texts("beyond"))

        assert failed(folder) == "no_usable_triples"
        assert "3 unknown_token" in tiny.result(folder)["detail"]

    def test_of_another_model_costs_only_what_does_not_fit(self, place: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(place / tiny.BASE)
        tokenizer.add_tokens(["beyond"])
        tokenizer.save_pretrained(place / tiny.BASE)

        folder = rounds.run(place, "round", [*self.texts("beyond"), *self.texts("w1")])

        assert tiny.result(folder)["dropped"] == {"unknown_token": 3}

    def test_that_is_missing_ends_the_round(self, place: Path) -> None:
        for path in (place / tiny.BASE).glob("tokenizer*"):
            path.unlink()

        assert failed(rounds.run(place, "round", self.texts("w1"))) == "base_mismatch"

    def test_without_a_template_ends_the_round(self, place: Path) -> None:
        (place / tiny.BASE / "chat_template.jinja").unlink()

        folder = rounds.run(place, "round", self.texts("w1"))

        assert failed(folder) in ("base_mismatch", "data_invalid")
        assert "template" in tiny.result(folder)["detail"]


class TestEngineIds:
    def test_of_another_model_end_the_round(self, place: Path) -> None:
        # A base of fewer tokens under the same name: ids that the engine returned are beyond it.
        smaller = place / "smaller"
        smaller.mkdir()
        tiny.base_save(smaller)
        config = json.loads((smaller / tiny.BASE / "config.json").read_text())
        from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

        model = LlamaForCausalLM(LlamaConfig(**config | {"vocab_size": 4, "eos_token_id": 3}))
        shutil.rmtree(place / tiny.BASE)
        shutil.copytree(smaller / tiny.BASE, place / tiny.BASE)
        model.save_pretrained(place / tiny.BASE)

        folder = rounds.run(place, "round", LINES)

        assert failed(folder) == "no_usable_triples"
        assert "8 unknown_token" in tiny.result(folder)["detail"]
