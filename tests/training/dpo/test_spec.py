"""run.json: what is refused, and under which code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.dpo import tiny
from training.dpo import spec
from training.dpo.failures import RoundFailed

OTHER = "a" * 64


def read(folder: Path, settings: Any) -> spec.Spec:
    path = folder / "run.json"
    path.write_text(json.dumps(settings))
    return spec.read(path)


def changed(settings: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """Set one key, given with dots; ... removes it."""
    *parents, last = where.split(".")
    place = settings
    for name in parents:
        place = place[name]
    place[last] = value
    if value is ...:
        del place[last]
    return settings


class TestRead:
    def test_takes_every_setting_of_the_contract(self, tmp_path: Path) -> None:
        found = read(tmp_path, tiny.spec(tmp_path))

        assert found.base.path == tmp_path / tiny.BASE
        assert found.parent.path is None
        assert found.lora.target_modules == ("q_proj", "v_proj", "down_proj")
        assert found.optimizer.learning_rate == 5e-3

    @pytest.mark.parametrize(
        ("where", "value", "named"),
        [
            ("schema", 1, "schema must be 2"),
            ("packing", True, "packing is unknown"),
            ("loss.label_smoothing", 0.1, "loss.label_smoothing is unknown"),
            ("machine.gpus", 1, "machine.gpus is unknown"),
            ("seed", ..., "seed is missing"),
            ("optimizer.clip", ..., "optimizer.clip is missing"),
            ("epochs", 0, "epochs must be"),
            ("epochs", True, "epochs must be of type int"),
            ("epochs", 1.5, "epochs must be of type int"),
            ("loss", "dpo", "loss must be an object"),
            (
                "loss.name",
                "kto",
                "loss.name must be one of dpo, robust, ipo, ln, apo_zero, dpop, simpo",
            ),
            ("loss.beta", 0, "loss.beta must be above 0"),
            ("loss.ties", 1, "loss.ties must be of type bool"),
            ("loss.smoothing", 0.5, "loss.smoothing must be at least 0 and below 0.5"),
            ("loss.smoothing", -0.1, "loss.smoothing must be at least 0"),
            ("loss.smoothing", None, "loss.smoothing must be of type float"),
            ("loss.nll", -1, "loss.nll must be 0 or more"),
            ("loss.nll", float("inf"), "loss.nll must be 0 or more"),
            ("loss.gamma", 0.5, "loss.gamma must be null with dpo"),
            ("loss.gamma", "x", "loss.gamma must be of type float"),
            ("loss.penalty", 5, "loss.penalty must be null with dpo"),
            ("loss.mask_special", 0, "loss.mask_special must be of type bool"),
            ("loss.mask_special", ..., "loss.mask_special is missing"),
            ("optimizer.learning_rate", float("nan"), "learning_rate must be above 0"),
            ("optimizer.weight_decay", -1, "weight_decay must be"),
            ("optimizer.warmup", 1, "warmup must be"),
            ("batch_pairs", 0, "batch_pairs must be"),
            ("max_tokens", 1, "max_tokens must be"),
            ("seed", -1, "seed must be"),
            ("checkpoint_steps", 0, "checkpoint_steps must be"),
            ("machine.threads", 0, "machine.threads must be"),
            ("machine.nice", -1, "machine.nice must be"),
            ("round.model", "../up", "round.model must be a slug"),
            ("scores", "relative", "scores must be an absolute path"),
            ("base.sha256", "short", "base.sha256 must be 64 hex digits"),
            ("reference", None, "reference must be an object with dpo"),
            ("reference", "base", "reference must be an object"),
            ("reference.sha256", "short", "reference.sha256 must be 64 hex digits"),
            ("reference.kind", "grandparent", "reference.kind must be base or parent"),
            ("reference.sha256", OTHER, "reference.sha256 must be that of the base"),
        ],
    )
    def test_refuses_what_does_not_hold_by_name(
        self, tmp_path: Path, where: str, value: Any, named: str
    ) -> None:
        with pytest.raises(RoundFailed, match=named) as failed:
            read(tmp_path, changed(tiny.spec(tmp_path), where, value))

        assert failed.value.code == "spec_invalid"

    @pytest.mark.parametrize(
        ("where", "value"),
        [
            ("lora.rank", 12),
            ("lora.alpha", 0),
            ("lora.use_dora", True),
            ("lora.modules_to_save", ["lm_head"]),
            ("lora.target_modules", []),
            ("lora.target_modules", ["q_proj", "q_proj"]),
            ("lora.target_modules", ["lm_head"]),
        ],
    )
    def test_refuses_adapters_that_no_engine_loads(
        self, tmp_path: Path, where: str, value: Any
    ) -> None:
        with pytest.raises(RoundFailed) as failed:
            read(tmp_path, changed(tiny.spec(tmp_path), where, value))

        assert failed.value.code == "adapter_unsupported"

    @pytest.mark.parametrize(
        ("where", "value", "code"),
        [
            ("base.path", "/somewhere/else", "base_mismatch"),
            ("parent", {"path": None, "sha256": OTHER, "number": 0}, "parent_mismatch"),
            ("parent", {"path": "/v/1", "sha256": OTHER, "number": 1}, "parent_mismatch"),
        ],
    )
    def test_refuses_folders_that_are_not_named_by_their_hash(
        self, tmp_path: Path, where: str, value: Any, code: str
    ) -> None:
        with pytest.raises(RoundFailed) as failed:
            read(tmp_path, changed(tiny.spec(tmp_path), where, value))

        assert failed.value.code == code

    @pytest.mark.parametrize("content", ["", "[]", "{"])
    def test_refuses_what_is_no_object(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "run.json").write_text(content)

        with pytest.raises(RoundFailed) as failed:
            spec.read(tmp_path / "run.json")

        assert failed.value.code == "spec_invalid"


class TestLoss:
    @pytest.mark.parametrize(
        "changes",
        [
            {"ties": True, "smoothing": 0.49, "nll": 1},
            {"name": "robust", "smoothing": 0.1},
            {"name": "ipo", "mask_special": True},
            {"name": "ln", "beta": 5, "nll": 0.2},
            {"name": "apo_zero"},
            {"name": "dpop", "penalty": 5},
            {"name": "simpo", "gamma": 0},
        ],
    )
    def test_is_read_with_the_options_it_has(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        settings = tiny.spec(tmp_path, loss=tiny.loss(**changes))
        if changes.get("name") == "simpo":
            settings["reference"] = None

        found = read(tmp_path, settings)

        assert dataclasses.asdict(found.loss) == settings["loss"]
        assert (found.reference is None) == (found.loss.name == "simpo")

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"name": "robust"}, "loss.smoothing must be above 0 and below 0.5 with robust"),
            ({"name": "robust", "smoothing": 0.5}, "loss.smoothing must be above 0"),
            (
                {"name": "robust", "smoothing": 0.1, "ties": True},
                "loss.ties must be false with robust",
            ),
            ({"name": "ipo", "smoothing": 0.1}, "loss.smoothing must be 0.0 with ipo"),
            ({"name": "ln", "gamma": 0}, "loss.gamma must be null with ln"),
            ({"name": "apo_zero", "ties": True}, "loss.ties must be false with apo_zero"),
            ({"name": "dpop"}, "loss.penalty must be above 0 with dpop"),
            ({"name": "dpop", "penalty": 0}, "loss.penalty must be above 0 with dpop"),
            ({"name": "simpo"}, "loss.gamma must be 0 or more with simpo"),
            ({"name": "simpo", "gamma": -1}, "loss.gamma must be 0 or more with simpo"),
            ({"name": "simpo", "gamma": 0.5}, "reference must be null with simpo"),
        ],
    )
    def test_is_refused_with_an_option_it_would_pass_over(
        self, tmp_path: Path, changes: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(RoundFailed, match=named) as failed:
            read(tmp_path, tiny.spec(tmp_path, loss=tiny.loss(**changes)))

        assert failed.value.code == "spec_invalid"
