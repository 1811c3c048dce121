"""The runner of all stages, with stages of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.run import ROOT

PROGRAM = """
import json, sys
from tests import run
stages = [run.Stage(**values | {"command": ("sh", "-c", values["command"])}) for values in json.loads(sys.argv[1])]
run.everything = lambda: stages
run.forget_coverage = lambda: None
sys.exit(run.main(["all"]))
"""


def started(*stages: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(stages)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ended(*stages: dict[str, Any]) -> tuple[int, str]:
    running = started(*stages)
    said, _ = running.communicate(timeout=50)
    return running.returncode, said


def waits_for(folder: Path, name: str, says: str) -> str:
    """Return the command of a stage that says that it runs and ends when another one has said so, too."""
    return f"touch {folder}/{says}; while ! [ -e {folder}/{name} ]; do sleep 0.02; done"


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_runs_two_stages_side_by_side(tmp_path: Path) -> None:
    code, said = ended(
        {"name": "one", "command": waits_for(tmp_path, "second", says="first"), "seconds": 20},
        {"name": "two", "command": waits_for(tmp_path, "first", says="second"), "seconds": 20},
    )

    assert code == 0, said
    assert "Passed: 2 stages" in said


def test_lets_a_stage_wait_for_what_it_needs_and_others_go_ahead(tmp_path: Path) -> None:
    code, said = ended(
        {"name": "slow", "command": f"sleep 0.5; echo made > {tmp_path}/it; echo slow ends"},
        {"name": "needs it", "command": f"cat {tmp_path}/it", "after": ["slow"]},
        {"name": "quick", "command": "echo quick ends"},
    )

    assert code == 0, said
    assert said.index("quick ends") < said.index("slow ends") < said.index("made")


def test_ends_at_the_first_that_fails_and_leaves_nothing_running(tmp_path: Path) -> None:
    left = (
        f"setsid sleep 300 & echo $! > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/left; sleep 300"
    )
    code, said = ended(
        {"name": "other", "command": left},
        {"name": "bad", "command": f"{waits_for(tmp_path, 'left', says='bad')}; echo broken; exit 3"},
        {"name": "never", "command": f"touch {tmp_path}/never"},
    )  # fmt: skip

    assert code == 1
    assert "broken\n-- 2/3 bad: exit code 3" in said
    assert "FAILED: bad; by itself: sh -c" in said
    assert not (tmp_path / "never").exists()
    assert is_gone(int((tmp_path / "left").read_text()))


def test_fails_when_a_stage_takes_too_long() -> None:
    code, said = ended({"name": "endless", "command": "sleep 300", "seconds": 1})

    assert code == 1
    assert "endless: stopped, for it may take 1 s" in said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_leaves_nothing_running_when_it_is_stopped(tmp_path: Path, how: signal.Signals) -> None:
    running = started(
        {"name": "long", "command": f"echo $$ > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/here; exec sleep 300"}
    )  # fmt: skip
    while not (tmp_path / "here").exists():
        time.sleep(0.02)
        assert running.poll() is None
    stage = int((tmp_path / "here").read_text())

    if how is signal.SIGINT:
        # As a terminal does: to the runner and to the process that keeps the stage, but not to the stage.
        os.killpg(running.pid, how)
    else:
        running.send_signal(how)
    running.communicate(timeout=30)

    assert running.returncode != 0
    deadline = time.monotonic() + 20
    while not is_gone(stage) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(stage)


def test_keeps_a_stage_to_half_of_the_cores() -> None:
    code, said = ended({"name": "half", "command": "nproc", "is_kept_to_half": True})

    cores = len(os.sched_getaffinity(0))
    assert code == 0
    assert str(cores - cores // 2) in said.splitlines()
