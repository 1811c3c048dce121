from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from training.launchers import Handle, Launcher, LocalLauncher


@pytest.fixture
def launcher() -> Launcher:
    return LocalLauncher()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    place.mkdir()
    (place / "run.json").write_text("{}")
    return place


def until(path: Path) -> str:
    """Wait until the trainer has written a file, and return what."""
    for _ in range(500):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def ended(launcher: Launcher, handle: Handle) -> int:
    for _ in range(500):
        if (code := launcher.poll(handle)) is not None:
            return code
        time.sleep(0.02)
    raise AssertionError("it never ended")


class TestLocalLauncher:
    def test_tells_how_it_ended_and_what_it_said(self, launcher, folder, script) -> None:
        script('print("one")\nprint("two")\nsys.exit(7)')

        handle = launcher.start(folder)

        assert ended(launcher, handle) == 7
        assert launcher.logs(handle, lines=1) == ["two"]
        assert launcher.stop(handle) == 7

    def test_lets_it_write_a_checkpoint_first(self, launcher, folder, script) -> None:
        script(
            "def stop(*_):\n    checkpoint(1)\n    sys.exit(75)\n"
            "signal.signal(signal.SIGTERM, stop)\n(folder / 'ready').write_text('x')\ntime.sleep(60)"
        )
        handle = launcher.start(folder)
        assert launcher.poll(handle) is None
        until(folder / "ready")

        assert launcher.stop(handle, seconds=10) == 75
        assert (folder / "checkpoints" / "step-000001").is_dir()

    def test_kills_what_does_not_listen(self, launcher, folder, script) -> None:
        script(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n(folder / 'ready').write_text('x')\ntime.sleep(60)"
        )
        handle = launcher.start(folder)
        until(folder / "ready")

        assert launcher.stop(handle, seconds=0.1) == -signal.SIGKILL

    def test_leaves_none_of_its_children_behind(self, launcher, folder, script) -> None:
        script(
            "if child := os.fork():\n    (folder / 'child').write_text(str(child))\nelse:\n    time.sleep(60)"
        )
        handle = launcher.start(folder)
        child = int(until(folder / "child"))
        assert ended(launcher, handle) == 0
        os.kill(child, 0)

        launcher.stop(handle)

        for _ in range(100):
            stat = Path(f"/proc/{child}/stat")
            # Nobody of ours reaps an orphan; a zombie is as dead.
            if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.02)
        raise AssertionError("the child lives")

    def test_says_when_there_is_no_program(self, launcher, folder, settings) -> None:
        settings.ML_PYTHON = folder / "nowhere"

        with pytest.raises(OSError, match="No such file"):
            launcher.start(folder)
