"""The exported version, read by plain transformers and PEFT on plain logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.dpo import rounds, tiny

LINES = [tiny.line(number) for number in range(8)]
LORAS = [
    {"rank": 8, "alpha": 16, "target_modules": rounds.ALL_LINEAR},
    {"rank": 1, "alpha": 3, "target_modules": ["v_proj", "gate_proj"]},
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.base_save(tmp_path)
    return tmp_path


class TestExport:
    @pytest.mark.parametrize("lora", LORAS, ids=["all", "some"])
    def test_scores_as_its_canary_says(self, place: Path, lora: dict[str, Any]) -> None:
        folder = rounds.run(
            place, "round", LINES, lora=lora, optimizer=rounds.optimizer(), epochs=5
        )

        model = rounds.loaded(place, folder / "version")
        rows = json.loads((folder / "version" / "canary.json").read_text())["rows"]
        assert len(rows) == 3
        for each in rows:
            prompt, completion = each["prompt_ids"], each["completion_ids"]
            adapted = rounds.log_probs(model, prompt, completion)
            with model.disable_adapter():
                plain = rounds.log_probs(model, prompt, completion)
            torch.testing.assert_close(adapted, torch.tensor(each["adapter"]), atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(plain, torch.tensor(each["base"]), atol=1e-6, rtol=1e-6)
            assert (adapted - plain).abs().max() > 1e-2

    def test_is_what_the_round_measured(self, place: Path) -> None:
        holdout = [tiny.line(number) for number in (100, 101, 102)]
        folder = rounds.run(
            place, "round", LINES, holdout=holdout, optimizer=rounds.optimizer(), epochs=5
        )

        model = rounds.loaded(place, folder / "version")
        margins = [
            0.1
            * (
                rounds.drift(model, each["prompt_ids"], each["chosen_ids"])
                - rounds.drift(model, each["prompt_ids"], each["rejected_ids"])
            )
            for each in holdout
        ]
        after = json.loads((folder / "eval.json").read_text())["after"]
        assert after["margin"] == pytest.approx(sum(margins) / 3, abs=1e-5)
        expected = -torch.nn.functional.logsigmoid(torch.tensor(margins)).mean().item()
        assert after["loss"] == pytest.approx(expected, abs=1e-5)
        assert after["accuracy"] == pytest.approx(sum(d > 0 for d in margins) / 3)
