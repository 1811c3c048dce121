from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pairloop.lib import processes
from pairloop.up import guard

ROOT = Path(__file__).parents[2]
Supervise = Callable[..., "subprocess.Popen[str]"]

#: Says that it is ready and stays.
STAYS = "import pathlib, time; pathlib.Path('{name}.ready').touch(); time.sleep(60)"
#: The same, and writes down when it was asked to stop.
SAYS_GOODBYE = """
import pathlib, signal, sys, time
def stop(*_):
    with open('stopped', 'a') as file:
        file.write('{name} ')
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path('{name}.ready').touch()
time.sleep(60)
"""
STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path('{name}.ready').touch()
time.sleep(60)
"""
#: Has a child of its own, in the same process group.
HAS_A_CHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
pathlib.Path('{name}.ready').write_text(str(child.pid))
time.sleep(60)
"""
CRASHES = "import sys; print('out of luck'); sys.exit(3)"


def part(name: str, code: str, **values: Any) -> dict[str, Any]:
    return {"name": name, "code": code.replace("{name}", name), **values}


def wait_for(condition: Callable[[], Any], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def states(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return {name: values["state"] for name, values in found["components"].items()}


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Zombies wait for init, which may be slow; they hold nothing.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    started = []

    def start(*parts: dict[str, Any], stop_s: float = 1.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.pairloop.supervised"),
                *(str(tmp_path), json.dumps(parts), str(stop_s)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=20)
    return process.returncode, output


class TestSupervisor:
    def test_starts_a_part_only_when_what_it_needs_is_ready(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        first = part("first", "import time; time.sleep(.2);" + STAYS, essential=True)
        second = part("second", "import os; assert os.path.exists('first.ready');" + STAYS)

        process = supervise(second | {"needs": ["first"]}, first)
        wait_for(lambda: states(tmp_path) == {"second": "ready", "first": "ready"})

        process.send_signal(signal.SIGTERM)
        code, output = ended(process)
        assert code == 0
        assert output.index("first ready after") < output.index("second ready after")

    def test_stops_in_order_on_ctrl_c(self, supervise: Supervise, tmp_path: Path) -> None:
        database = part("database", SAYS_GOODBYE, stops_last=True)
        web = part("web", SAYS_GOODBYE, needs=["database"])

        process = supervise(database, web)
        wait_for(lambda: states(tmp_path) == {"database": "ready", "web": "ready"})
        process.send_signal(signal.SIGINT)

        code, output = ended(process)
        assert code == 0
        assert (tmp_path / "stopped").read_text() == "web database "
        assert output.index("stopping web") < output.index("stopping database")
        assert states(tmp_path) == {"database": "stopped", "web": "stopped"}

    def test_kills_a_part_that_does_not_stop(self, supervise: Supervise, tmp_path: Path) -> None:
        process = supervise(part("web", STUBBORN))
        wait_for(lambda: states(tmp_path) == {"web": "ready"})
        process.send_signal(signal.SIGINT)

        code, output = ended(process)
        assert code == 0
        assert "web does not stop by itself; sent it SIGKILL" in output

    def test_kills_at_once_on_the_second_ctrl_c(self, supervise: Supervise, tmp_path: Path) -> None:
        process = supervise(part("web", STUBBORN), stop_s=60)
        wait_for(lambda: states(tmp_path) == {"web": "ready"})
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)

        # Far less than the patience it would have had.
        assert "sent it SIGKILL" in ended(process)[1]

    def test_restarts_a_part_that_was_killed(self, supervise: Supervise, tmp_path: Path) -> None:
        process = supervise(part("web", HAS_A_CHILD))
        wait_for(lambda: states(tmp_path) == {"web": "ready"})
        child = int((tmp_path / "web.ready").read_text())
        web = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        processes.group_signal(web, signal.SIGTERM)

        wait_for(lambda: (tmp_path / "web.ready").read_text() != str(child))
        # What the first one started does not live on beside the second.
        assert not is_alive(child)
        process.send_signal(signal.SIGINT)
        assert "web ended with signal SIGTERM; it starts again" in ended(process)[1]

    def test_restarts_a_part_that_no_longer_answers(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        process = supervise(part("engine", STAYS, patience_s=0.3))
        wait_for(lambda: states(tmp_path) == {"engine": "ready"})
        (tmp_path / "engine.ready").unlink()

        # Started again, it makes the file once more.
        wait_for((tmp_path / "engine.ready").exists)
        wait_for(lambda: states(tmp_path) == {"engine": "ready"})
        process.send_signal(signal.SIGINT)
        output = ended(process)[1]
        assert "engine has not answered for" in output
        assert "engine ended with signal SIGKILL; it starts again" in output

    def test_gives_a_part_up_that_never_answers(self, supervise: Supervise, tmp_path: Path) -> None:
        process = supervise(part("engine", "import time; time.sleep(60)", start_patience_s=0.2))

        wait_for(lambda: states(tmp_path) == {"engine": "failed"})
        process.send_signal(signal.SIGINT)
        assert "engine ended 5 times in a row, last with signal SIGKILL" in ended(process)[1]

    def test_restarts_what_follows_a_restarted_part(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        process = supervise(
            part("database", HAS_A_CHILD),
            part("worker", SAYS_GOODBYE, needs=["database"], follows=["database"]),
        )
        wait_for(lambda: states(tmp_path) == {"database": "ready", "worker": "ready"})
        child = int((tmp_path / "database.ready").read_text())
        database = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        processes.group_signal(database, signal.SIGKILL)

        wait_for((tmp_path / "stopped").exists)
        wait_for(lambda: states(tmp_path) == {"database": "ready", "worker": "ready"})
        process.send_signal(signal.SIGINT)
        output = ended(process)[1]
        assert "restarting worker, as database was" in output
        assert "worker ended" not in output
        assert output.count("worker ready") == 2

    def test_ends_after_five_fast_crashes_of_an_essential_part(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        code, output = ended(supervise(part("web", CRASHES, essential=True)))

        assert code == 1
        assert "web ended 5 times in a row, last with exit code 3" in output
        assert output.count("starts again") == 4
        assert output.count("out of luck") == 5
        assert states(tmp_path) == {"web": "failed"}

    def test_goes_on_when_another_part_fails(self, supervise: Supervise, tmp_path: Path) -> None:
        process = supervise(
            part("web", STAYS, essential=True),
            part("engine", CRASHES),
            part("after", STAYS, needs=["engine"]),
        )
        wait_for(
            lambda: states(tmp_path) == {"web": "ready", "engine": "failed", "after": "failed"}
        )

        status = json.loads((tmp_path / "status.json").read_text())["components"]
        assert status["engine"]["log_tail"] == ["out of luck"] * 5
        assert status["after"]["detail"] == "It needs engine, which failed."
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 0

    def test_asks_again_when_it_cannot_know_yet_how_to_start(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        supervise(part("one", STAYS), part("two", STAYS, not_before="known", needs=["one"]))
        wait_for(lambda: states(tmp_path).get("one") == "ready")
        wait_for(lambda: "Waits for known." in (tmp_path / "status.json").read_text())

        (tmp_path / "known").touch()

        wait_for(lambda: states(tmp_path).get("two") == "ready")
        assert states(tmp_path)["one"] == "ready"

    def test_starts_nothing_where_there_is_a_reason(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        process = supervise(
            part("base", CRASHES, one_shot=True),
            part("engine", CRASHES, needs=["base"], skip="Somebody else runs one."),
        )
        wait_for(lambda: states(tmp_path) == {"base": "failed", "engine": "ready"})

        process.send_signal(signal.SIGINT)
        assert "engine: Somebody else runs one." in ended(process)[1]

    def test_follows_a_one_shot_and_remembers_how_long_it_took(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        code = "import time; print('half way\\n', flush=True); time.sleep(.4)"
        details = set()

        process = supervise(part("environment", code, one_shot=True, expected_s=150))

        def is_done() -> bool:
            if found := states(tmp_path):
                text = (tmp_path / "status.json").read_text()
                details.add(json.loads(text)["components"]["environment"]["detail"])
            return found == {"environment": "done"}

        wait_for(is_done)
        process.send_signal(signal.SIGINT)
        ended(process)
        assert "half way" in details
        assert 0 < json.loads((tmp_path / "timings.json").read_text())["environment"] < 10

    def test_leaves_nothing_behind_when_killed(self, supervise: Supervise, tmp_path: Path) -> None:
        process = supervise(part("web", HAS_A_CHILD))
        wait_for(lambda: states(tmp_path) == {"web": "ready"})
        child = int((tmp_path / "web.ready").read_text())

        process.kill()

        wait_for(lambda: not is_alive(child))
        # The next one waits for the guard of the first and then begins.
        (tmp_path / "web.ready").unlink()
        process = supervise(part("web", STAYS))
        wait_for((tmp_path / "web.ready").exists)
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 0

    def test_refuses_a_second_one_on_the_same_folder(
        self, supervise: Supervise, tmp_path: Path
    ) -> None:
        process = supervise(part("web", STAYS))
        wait_for(lambda: states(tmp_path) == {"web": "ready"})

        code, output = ended(supervise(part("web", STAYS)))

        assert code == 1
        assert f"Pairloop already runs on {tmp_path} (process {process.pid})." in output
        assert is_alive(process.pid)


class TestGroupsStop:
    def test_kills_what_ignores_the_stop_signal(self, tmp_path: Path) -> None:
        launch = processes.Launch(
            command=(sys.executable, "-c", STUBBORN.replace("{name}", "stubborn")), folder=tmp_path
        )
        process = processes.spawn(launch, log=tmp_path / "log", death_signal=signal.SIGTERM)
        wait_for((tmp_path / "stubborn.ready").exists)

        guard.groups_stop({process.pid: signal.SIGTERM}, grace_s=0.2)

        assert process.wait(timeout=5) == -signal.SIGKILL


class TestGroupsRead:
    def test_forgets_what_ended(self) -> None:
        assert guard.groups_read(["+7 15\n", "+8 2\n", "-7\n"]) == {8: signal.SIGINT}
