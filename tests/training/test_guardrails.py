from __future__ import annotations

from typing import Any

import pytest

from training import guardrails
from training.guardrails import BOUNDS, bounds_of, checks


def measured(prompts: int = 20, k1: float = 3.0, **version: float) -> dict[str, Any]:
    same = {"answers": 80, "tokens_mean": 20.0, "eos_rate": 1.0, "distinct2": 0.6}
    return {
        "prompts": prompts,
        "kl_base": {"k1": k1},
        "version": same | version,
        "parent": same,
        "base": same,
    }


def broken(found: dict[str, Any]) -> list[str]:
    return [check.name for check in checks(found, BOUNDS) if not check.is_kept]


class TestChecks:
    @pytest.mark.parametrize(
        ("change", "names"),
        [
            ({}, []),
            ({"k1": 41.0}, ["kl_base"]),
            # .47 / .6 is below .8; .49 / .6 is not.
            ({"distinct2": 0.47}, ["distinct2"]),
            ({"distinct2": 0.49}, []),
            ({"tokens_mean": 13.9}, ["length"]),
            ({"tokens_mean": 14.1}, []),
            ({"tokens_mean": 28.1}, ["length"]),
            # Of 80 answers, chance alone makes a ninth end otherwise: 2 * sqrt(.25 / 80) = .11.
            ({"eos_rate": 0.85}, []),
            ({"eos_rate": 0.83}, ["eos_drop"]),
            ({"tokens_mean": 1.0, "distinct2": 0.0, "eos_rate": 0.0, "k1": 100.0},
             ["kl_base", "distinct2", "length", "eos_drop"]),
        ],
    )  # fmt: skip
    def test_say_which_bounds_are_broken(self, change, names) -> None:
        assert broken(measured(**change)) == names

    def test_say_nothing_about_too_few_prompts(self) -> None:
        assert checks(measured(prompts=9, tokens_mean=1.0), BOUNDS) == []

    def test_compare_with_nothing_when_the_base_said_nothing(self) -> None:
        found = measured()
        found["base"] = found["parent"] = {
            "answers": 80, "tokens_mean": 0.0, "eos_rate": 1.0, "distinct2": 0.0,
        }  # fmt: skip

        assert broken(found) == []


class TestBoundsOf:
    def test_lets_a_model_have_its_own(self) -> None:
        assert bounds_of({"length_least": 0.3})["length_least"] == 0.3
        assert bounds_of({})["length_least"] == 0.7

    @pytest.mark.parametrize(
        "wrong", [{"lenght_least": 0.3}, {"length_least": "short"}, {"length_most": True}]
    )
    def test_refuses_what_would_be_ignored(self, wrong) -> None:
        with pytest.raises(guardrails.BoundsInvalid, match="length_most"):
            bounds_of(wrong)
