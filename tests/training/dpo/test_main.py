"""The trainer as a process of its own: killed, stopped, started again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.training.dpo import tiny
from training.dpo import __main__ as program

ROOT = Path(__file__).resolve().parents[3]
#: Three imports of torch, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)
LINES = [tiny.line(number) for number in range(16)]


@contextmanager
def trainer(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the trainer, and end it with the block."""
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.dpo", str(folder)], cwd=ROOT, stdout=log, stderr=log
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def step_wait(process: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    """Wait until the trainer has taken a step."""
    while not any(each["step"] >= step for each in tiny.events(folder, "step")):
        assert process.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.02)


class TestMain:
    def test_survives_a_kill_and_a_stop_to_the_bit(self, tmp_path: Path) -> None:
        tiny.base_save(tmp_path)
        settings = tiny.spec(tmp_path, epochs=8, batch_pairs=2, checkpoint_steps=5)
        undisturbed, disturbed = (
            tiny.round_save(tmp_path / name, settings=settings, snapshot=LINES)
            for name in ("undisturbed", "disturbed")
        )
        assert program.main([str(undisturbed)]) == 0

        with trainer(disturbed) as process:
            step_wait(process, disturbed, 7)
            process.kill()
        assert not (disturbed / "result.json").exists()
        with trainer(disturbed) as process:
            step_wait(process, disturbed, 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 75
        stopped = tiny.events(disturbed)
        assert not (disturbed / "result.json").exists()
        assert not (disturbed / "version").exists()
        assert program.main([str(disturbed)]) == 0

        assert stopped[-1]["outcome"] == "stopped"
        assert stopped[-2]["event"] == "checkpoint"
        begun = [each["resumed_from"] for each in tiny.events(disturbed, "start")]
        assert begun[0] == 0
        assert begun[1] >= 5
        assert begun[1] % 5 == 0
        assert begun[2] == stopped[-2]["step"]
        for path in (undisturbed / "version").iterdir():
            assert path.read_bytes() == (disturbed / "version" / path.name).read_bytes()
        steps = {each["step"]: each["loss"] for each in tiny.events(disturbed, "step")}
        assert steps == {each["step"]: each["loss"] for each in tiny.events(undisturbed, "step")}

    def test_shows_life_before_it_imports_torch(self, tmp_path: Path) -> None:
        folder = tiny.round_save(tmp_path / "round", settings={"schema": 1}, snapshot=[])
        script = (
            "import sys; from training.dpo.__main__ import main; "
            "code = main(sys.argv[1:]); sys.exit(9 if 'torch' in sys.modules else code)"
        )

        done = subprocess.run(
            [sys.executable, "-c", script, str(folder)], cwd=ROOT, check=False, capture_output=True
        )

        assert done.returncode == 1
        assert [each["event"] for each in tiny.events(folder)] == ["stage", "end"]
        assert tiny.result(folder)["code"] == "spec_invalid"

    def test_mends_a_line_that_was_cut_off(self, tmp_path: Path) -> None:
        folder = tiny.round_save(tmp_path / "round", settings={"schema": 1}, snapshot=[])
        (folder / "events.jsonl").write_text('{"event": "end", "at": 1}\n{"event": "st')

        program.main([str(folder)])

        assert [each["event"] for each in tiny.events(folder)] == ["end", "stage", "end"]

    def test_stops_before_training_when_asked_to(self, tmp_path: Path) -> None:
        tiny.base_save(tmp_path)
        folder = tiny.round_save(tmp_path / "round", settings=tiny.spec(tmp_path), snapshot=LINES)
        with trainer(folder) as process:
            while not tiny.events(folder):
                assert process.poll() is None
                time.sleep(0.02)

            process.send_signal(signal.SIGTERM)

            assert process.wait() == 75
        assert not (folder / "result.json").exists()
        assert program.main([str(folder)]) == 0


@pytest.fixture(autouse=True)
def _handler() -> object:
    """Give back what main() does to this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
