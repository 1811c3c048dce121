"""Whole rounds against TRL's DPOTrainer, whose numbers golden_make.py stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.dpo import golden_make, tiny
from training.dpo import __main__ as program

GOLDEN = json.loads(golden_make.GOLDEN.read_text())
CASES = GOLDEN["cases"]


def close(value: float) -> Any:
    return pytest.approx(value, abs=1e-5, rel=1e-5)


def trained(place: Path, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a case's round on the same weights and triples; return its steps."""
    golden_make.model_save(place)
    kind = case["reference"]
    sha256 = {"base": tiny.BASE, "parent": golden_make.ADAPTER}
    settings = tiny.spec(
        place,
        round={"model": "demo", "number": 2},
        parent={
            "path": str(place / golden_make.ADAPTER),
            "sha256": golden_make.ADAPTER,
            "number": 1,
        },
        reference={"kind": kind, "sha256": sha256[kind]},
        lora=golden_make.LORA,
        loss=case["loss"],
        optimizer=golden_make.OPTIMIZER | {"learning_rate": case["learning_rate"]},
        epochs=golden_make.STEPS,
        batch_pairs=golden_make.PAIRS,
        checkpoint_steps=golden_make.STEPS,
    )
    folder = tiny.round_save(place / "round", settings=settings, snapshot=golden_make.lines())
    assert program.main([str(folder)]) == 0
    return tiny.events(folder, "step")


class TestTrl:
    def test_was_given_what_is_made_here(self, tmp_path: Path) -> None:
        assert golden_make.model_save(tmp_path) == GOLDEN["from"]["weights_sha256"]
        for line, stored in zip(golden_make.lines(), GOLDEN["triples"], strict=True):
            assert stored == {key: line[key] for key in stored}
        settings = {
            name: {k: v for k, v in case.items() if k != "steps"} for name, case in CASES.items()
        }
        assert settings == golden_make.CASES

    @pytest.mark.parametrize("name", CASES)
    def test_takes_the_same_steps(self, tmp_path: Path, name: str) -> None:
        case = CASES[name]

        found = trained(tmp_path, case)

        assert len(found) == golden_make.STEPS
        for ours, theirs in zip(found, case["steps"], strict=True):
            for key in ("loss", "grad_norm", "learning_rate"):
                assert ours[key] == close(theirs[key]), (name, ours["step"], key)

    @pytest.mark.parametrize("name", ["dpo", "dpo_parent"])
    def test_drifts_alike(self, tmp_path: Path, name: str) -> None:
        # TRL's rewards are beta * rho, and its accuracy is not ours: of a margin of 0 it counts none.
        case = CASES[name]
        beta = case["loss"]["beta"]

        found = trained(tmp_path, case)

        for ours, theirs in zip(found, case["steps"], strict=True):
            for part in ("chosen", "rejected"):
                assert beta * ours[f"drift_{part}"] == close(theirs[f"reward_{part}"])

    def test_has_moved_in_every_case(self) -> None:
        for case in CASES.values():
            first, last = case["steps"][0], case["steps"][-1]
            assert first["loss"] - last["loss"] > 0.1
