"""Rounds in a row: whose child a version is, and whose scores were its reference."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.training.dpo import rounds, tiny

#: Each round judges pairs of its own.
ROUNDS = [[tiny.line(10 * number + each) for each in range(6)] for number in range(3)]
#: Every step takes all pairs.
SETTINGS: dict[str, Any] = {"optimizer": rounds.optimizer(), "epochs": 6, "batch_pairs": 6}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.base_save(tmp_path)
    return tmp_path


def three(place: Path, *, kind: str) -> list[Path]:
    """Run three rounds, each on the version before, against the base or that version."""
    folders = [rounds.run(place, "round-1", ROUNDS[0], **SETTINGS)]
    for number in (1, 2):
        child = rounds.child_of(place, folders[-1], number=number)
        sha256 = tiny.BASE if kind == "base" else child["parent"]["sha256"]
        reference = {"kind": kind, "sha256": sha256}
        name = f"round-{number + 1}"
        folders.append(
            rounds.run(place, name, ROUNDS[number], **SETTINGS, **child, reference=reference)
        )
    return folders


def named(folder: Path, what: str) -> str:
    """Return the hash of run.json's base, parent or reference."""
    found: str = json.loads((folder / "run.json").read_text())[what]["sha256"]
    return found


def stores(place: Path) -> set[str]:
    """Return whose scores are stored."""
    return {path.name for path in (place / "scores").iterdir()}


def begins(folder: Path) -> dict[str, Any]:
    return tiny.events(folder, "step")[0]


class TestThreeRounds:
    def test_against_the_base_use_the_scores_of_the_base(self, place: Path) -> None:
        folders = three(place, kind="base")

        assert [named(each, "reference") for each in folders] == [tiny.BASE] * 3
        assert stores(place) == {tiny.BASE}
        # The second and third go on from where the one before ended, away from their reference.
        assert begins(folders[0])["drift_chosen"] == 0
        for lines, before, after in zip(ROUNDS[1:], folders[:2], folders[1:], strict=True):
            model = rounds.loaded(place, before / "version")
            drifts = [rounds.drift(model, each["prompt_ids"], each["chosen_ids"]) for each in lines]
            assert abs(sum(drifts)) > 0.1
            assert begins(after)["drift_chosen"] == pytest.approx(sum(drifts) / 6, abs=1e-5)

    def test_against_the_parent_use_the_scores_of_the_parent(self, place: Path) -> None:
        folders = three(place, kind="parent")

        references = [tiny.BASE, *(named(each, "reference") for each in folders[1:])]
        assert references[1:] == [named(each, "parent") for each in folders[1:]]
        assert len(set(references)) == 3
        assert stores(place) == set(references)
        for each in folders[1:]:
            assert begins(each)["loss"] == pytest.approx(math.log(2), abs=1e-6)
            assert begins(each)["margin"] == pytest.approx(0, abs=1e-5)
            assert begins(each)["grad_norm"] > 0

    @pytest.mark.parametrize("kind", ["base", "parent"])
    def test_use_the_scores_that_run_json_names(self, place: Path, kind: str) -> None:
        folders = three(place, kind=kind)
        again = json.loads((folders[2] / "run.json").read_text())
        store = place / "scores" / named(folders[2], "reference")

        for path in store.iterdir():
            path.unlink()
        without = tiny.round_save(place / "without", settings=again, snapshot=ROUNDS[2])
        rounds.finish(without)

        # Scored anew by the reference itself, the round is the same.
        assert rounds.adapter(without) == rounds.adapter(folders[2])
        assert list(store.iterdir())

    def test_tell_their_lineage(self, place: Path) -> None:
        folders = three(place, kind="parent")

        for number, folder in enumerate(folders):
            card = (folder / "version" / "README.md").read_text()
            assert f"| base | `{tiny.BASE}` |" in card
            assert f"| parent | v{number} (`{named(folder, 'parent')}`) |" in card
            assert f"(`{named(folder, 'reference')}`) |" in card
