from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models_registry import canary
from models_registry.engine.fake import FakeEngine
from tests.models_registry.adapters import ROWS, adapter_make

ROW = canary.Row(prompt_ids=(1, 2), completion_ids=(3, 4), base=(-1.0, -2.0), adapter=(-1.2, -2.0))


class TestJudge:
    """Training changed a log-probability by 0.1 nat in the mean."""

    @pytest.mark.parametrize("off", [0.0, 0.0249, -0.0249])
    def test_passes_up_to_a_quarter_of_what_training_changed(self, off: float) -> None:
        found = canary.judge([ROW], [(-1.2 + off, -2.0 - off)])

        assert found.passed
        assert found.effect == pytest.approx(0.1)
        assert found.difference == pytest.approx(abs(off))

    @pytest.mark.parametrize("off", [0.0251, -0.0251, 1.0])
    def test_fails_beyond_it(self, off: float) -> None:
        assert not canary.judge([ROW], [(-1.2 + off, -2.0 - off)]).passed

    def test_fails_when_the_base_answers(self) -> None:
        found = canary.judge([ROW], [ROW.base])

        assert not found.passed
        assert found.difference == found.effect

    def test_counts_every_token_of_every_row_alike(self) -> None:
        other = replace(ROW, completion_ids=(3,), base=(-1.0,), adapter=(-1.0,))

        found = canary.judge([ROW, other], [ROW.adapter, (-1.3,)])

        assert found.effect == pytest.approx(0.2 / 3)
        assert found.difference == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("change", "note"), [(9e-5, "indistinguishable from base"), (1.1e-4, "")]
    )
    def test_marks_what_cannot_be_told_from_the_base(self, change: float, note: str) -> None:
        row = replace(ROW, adapter=tuple(one - change for one in ROW.base))

        assert canary.judge([row], [row.adapter]).note == note


class TestMeasure:
    def test_asks_for_no_more_than_the_engine_reads(self, tmp_path: Path) -> None:
        long = {
            "prompt_ids": [1] * 2000, "completion_ids": [2] * 100,
            "base": [-1.0] * 100, "adapter": [-2.0] * 100,
        }  # fmt: skip
        folder = adapter_make(tmp_path / "version", rows=[long])
        engine = FakeEngine()
        engine.adapter_load(name="pl-1", path=str(folder))

        found = canary.measure(engine, name="pl-1", folder=folder)

        # The fake knows the row only as a whole, and answers anything else with a hash.
        assert found.effect == 1.0

    def test_refuses_a_prompt_that_leaves_no_room(self, tmp_path: Path) -> None:
        folder = adapter_make(tmp_path / "version", rows=[ROWS[0] | {"prompt_ids": [1] * 2047}])

        with pytest.raises(ValueError, match="longer than the engine reads"):
            canary.measure(FakeEngine(), name="base", folder=folder)
