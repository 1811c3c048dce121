"""A round that was killed ends as if it had not been, wherever its checkpoints lie."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.dpo import rounds, tiny

ROOT = Path(__file__).resolve().parents[3]
LINES = [tiny.line(number) for number in range(12)]
#: Two imports of torch, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.base_save(tmp_path)
    return tmp_path


def sha256(folder: Path) -> str:
    return hashlib.sha256(rounds.adapter(folder)).hexdigest()


def start_and_kill(folder: Path, *, after: int) -> None:
    """Start the trainer as a process of its own and kill it, kill -9, once it has taken so many steps."""
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.dpo", str(folder)], cwd=ROOT, stdout=log, stderr=log
        )
    with process:
        while not any(each["step"] >= after for each in tiny.events(folder, "step")):
            assert process.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.01)
        process.kill()


class TestInterval:
    def test_of_checkpoints_changes_nothing(self, place: Path) -> None:
        folders = [
            rounds.run(place, f"every-{steps}", LINES, epochs=4, checkpoint_steps=steps)
            for steps in (1, 3, 99)
        ]

        saved = [len(tiny.events(each, "checkpoint")) for each in folders]
        assert saved == [12, 4, 1]
        assert len({sha256(each) for each in folders}) == 1
        assert rounds.losses(folders[0]) == rounds.losses(folders[1]) == rounds.losses(folders[2])

    def test_of_checkpoints_does_not_show_after_a_kill(self, place: Path) -> None:
        undisturbed = rounds.run(place, "undisturbed", LINES, epochs=40, checkpoint_steps=7)
        settings = tiny.spec(place, epochs=40, checkpoint_steps=5)
        killed = tiny.round_save(place / "killed", settings=settings, snapshot=LINES)

        start_and_kill(killed, after=11)
        assert not (killed / "result.json").exists()
        rounds.finish(killed)

        resumed = tiny.events(killed, "start")[-1]["resumed_from"]
        assert resumed >= 10
        assert resumed < 120
        assert sha256(killed) == sha256(undisturbed)
        assert {path.name: path.read_bytes() for path in (killed / "version").iterdir()} == {
            path.name: path.read_bytes() for path in (undisturbed / "version").iterdir()
        }
