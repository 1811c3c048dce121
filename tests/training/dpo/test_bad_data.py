"""What cannot be trained on is dropped whole, counted by reason, and changes nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.dpo import rounds, tiny

GOOD = [tiny.line(number) for number in range(7)]
HELD_OUT = [tiny.line(number) for number in (100, 101)]
LONG = [tiny.FIRST] * 60
BAD = {
    "identical": {"chosen_ids": [9, tiny.END], "rejected_ids": [9, tiny.END]},
    "empty": {"rejected_ids": []},
    "too_long": {"chosen_ids": LONG, "rejected_ids": [*LONG, tiny.END]},
    "unknown_token": {"prompt_ids": [1, len(tiny.WORDS), 2]},
}
ONE_SIDED = {"chosen_ids": [9, tiny.END], "rejected_ids": LONG}


def bad(number: int, changes: dict[str, Any]) -> dict[str, Any]:
    return tiny.line(number, **changes)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.base_save(tmp_path)
    return tmp_path


class TestUnusable:
    def test_is_counted_and_changes_nothing(self, place: Path) -> None:
        mixed = list(GOOD)
        for number, changes in enumerate([*BAD.values(), ONE_SIDED]):
            # Heavy, so that one in a denominator would show.
            mixed.insert(2 * number, bad(number, changes) | {"weight": 50.0})
        held_out = [bad(9, BAD["empty"]), *HELD_OUT, bad(9, ONE_SIDED)]

        clean = rounds.run(place, "clean", GOOD, holdout=HELD_OUT)
        dirty = rounds.run(place, "dirty", mixed, holdout=held_out)

        assert tiny.result(clean)["dropped"] == {}
        assert tiny.result(dirty)["dropped"] == {
            "identical": 1, "empty": 1, "too_long": 2, "unknown_token": 1,
            "holdout_empty": 1, "holdout_too_long": 1,
        }  # fmt: skip
        assert tiny.events(dirty, "start")[0]["pairs"] == len(GOOD)
        assert len(rounds.losses(clean)) == 4
        assert rounds.losses(dirty) == rounds.losses(clean)
        assert rounds.adapter(dirty) == rounds.adapter(clean)
        assert (dirty / "eval.json").read_bytes() == (clean / "eval.json").read_bytes()

    def test_is_never_cut_to_fit(self, place: Path) -> None:
        # Cut to 64 tokens, both sides would have been fine.
        lines = [*GOOD, bad(8, ONE_SIDED), tiny.line(9, prompt_ids=LONG)]

        folder = rounds.run(place, "round", lines)

        assert tiny.result(folder)["dropped"] == {"too_long": 2}

    def test_alone_makes_no_version(self, place: Path) -> None:
        lines = [bad(number, changes) for number, changes in enumerate(BAD.values())]

        folder = rounds.run(place, "round", lines)

        assert tiny.result(folder)["code"] == "no_usable_triples"
        for reason in BAD:
            assert f"1 {reason}" in tiny.result(folder)["detail"]
        assert not (folder / "version").exists()
