"""Run the checks and tests, two at a time, and stop at the first that fails.

    .venv/bin/python -m tests.run all|check

`make test` and `make check` set up the environment of the checks and call this; the model's environment is
made meanwhile.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
ML_PYTHON = ROOT / ".venv-ml" / "bin" / "python"
PYTEST = ("pytest", "-q")
#: Measuring makes tests take half as long again, so where coverage does not come from goes without.
COVERED = ("coverage", "run", "--rcfile=pyproject.toml", "-m", *PYTEST)
#: Their tests run in .venv-ml, and importing them needs it.
ML_FOLDERS = ("tests/convert", "tests/training/dpo")
#: They ask for every page again and again, and run what the unit tests run.
SECURITY = "tests/security"
#: Stages side by side; each of them keeps one core busy.
AT_ONCE = 2
#: Of a stage beside another one, which would else take both cores for its matrices.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Failed(Exception):
    """A stage did not pass; the message is the last line that people read."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, how long it may take, and what it needs."""

    name: str
    command: tuple[str, ...]
    seconds: int = 120
    #: Folders of which one must hold tests, else the stage is passed over.
    tests: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    #: Names of stages that must have passed before.
    after: tuple[str, ...] = ()
    #: Whether it may use half of the cores only: what computes with many threads is slow beside anything else.
    is_kept_to_half: bool = False


def python(*arguments: str) -> tuple[str, ...]:
    """Return a command of the web environment's Python."""
    return (str(BIN / "python"), "-m", *arguments)


def static() -> list[Stage]:
    """Return what needs no test to run."""
    manage = (str(BIN / "python"), "manage.py")
    return [
        Stage("ruff check", python("ruff", "check", ".")),
        Stage("ruff format", python("ruff", "format", "--check", ".")),
        Stage("import contracts", (str(BIN / "lint-imports"),)),
        Stage("templates", python("djlint", "--quiet", "--lint", "templates")),
        Stage("types", python("mypy"), seconds=300),
        Stage(
            "deployment",
            (*manage, "check", "--deploy", "--fail-level", "WARNING"),
            environment={"DJANGO_SETTINGS_MODULE": "pairloop.settings"},
        ),
        # It warns when no database answers; whether migrations are missing it can tell without one.
        Stage(
            "migrations",
            (*manage, "makemigrations", "--check", "--dry-run"),
            environment={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        ),
    ]


def environments() -> Stage:
    """Return what makes the environments of the model and of TRL, as `make run` would."""
    # The base interpreter: an environment made from another one breaks when that one goes.
    base = (
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    )
    command = (str(base), "-u", "-m", "pairloop.up.environments", "ml", "bench")
    return Stage("environments", command, seconds=1800)


def unit(*, coverage: bool) -> list[Stage]:
    """Return the tests that need neither Chromium nor torch nor vLLM, in two halves."""
    runner = COVERED if coverage else PYTEST
    without = [f"--ignore={folder}" for folder in (*ML_FOLDERS, SECURITY)]
    return [
        Stage("unit tests", python(*runner, *without), seconds=1800, tests=("tests",)),
        Stage(
            "security tests",
            python(*PYTEST, SECURITY),
            seconds=1200,
            tests=(SECURITY,),
            environment=state("security"),
        ),
    ]


def journey() -> Stage:
    """Return the tests of the whole product with a real engine, the longest of all."""
    options = ("-x", "-m", "engine", "-s", "-p", "no:randomly", "--timeout", "0")
    return Stage(
        "the journey, with a real engine", python(*PYTEST, *options, "tests/loop"), seconds=3000, tests=("tests/loop",),
        after=("environments",), is_kept_to_half=True,
    )  # fmt: skip


def with_torch() -> list[Stage]:
    """Return the tests that run in .venv-ml."""
    command = (str(ML_PYTHON), "-m", *COVERED, "-c", "tests/ml.toml", "--rootdir", ".")
    return [
        Stage(
            f"{folder} with torch", (*command, folder), seconds=900, tests=(folder,),
            environment=ONE_THREAD, after=("environments",),
        )
        for folder in ML_FOLDERS
    ]  # fmt: skip


def everything() -> list[Stage]:
    """Return all stages: what takes longest begins as early as it may, and fills one core while the rest fills another."""
    stages = [
        environments(),
        journey(),
        *static(),
        *unit(coverage=True),
        Stage(
            "browser tests", python(*PYTEST, "-m", "e2e", "tests/e2e"), seconds=1800, tests=("tests/e2e",),
            # Playwright's loop makes Django take every test for asynchronous.
            environment={"DJANGO_ALLOW_ASYNC_UNSAFE": "true", **state("browser")},
        ),
        *with_torch(),
        Stage(
            "exports with TRL", python(*PYTEST, "-m", "bench", "tests/bench"), seconds=900, tests=("tests/bench",),
            environment=ONE_THREAD | state("exports"), after=("environments",),
        ),
    ]  # fmt: skip
    names = tuple(stage.name for stage in stages)
    return [
        *stages,
        Stage("combine coverage", python("coverage", "combine", "--quiet"), after=names),
        Stage("coverage", python("coverage", "report"), after=("combine coverage",)),
    ]


def state(name: str) -> dict[str, str]:
    """Return what gives a stage a state folder, and with it a PostgreSQL, of its own."""
    return {"PAIRLOOP_VAR": str(ROOT / "var" / f"test-{name}")}


def main(arguments: list[str]) -> int:
    """Run the stages that the command line names; return the exit code."""
    if arguments not in (["all"], ["check"]):
        print("usage: .venv/bin/python -m tests.run all|check", file=sys.stderr)
        return 2
    stages = everything() if arguments == ["all"] else [*static(), *unit(coverage=False)]
    began = time.monotonic()
    try:
        forget_coverage()
        run_all(stages)
    except Failed as failed:
        print(f"\nFAILED: {failed}", flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
        return 130
    print(f"\nPassed: {len(stages)} stages in {time.monotonic() - began:.0f} s.")
    return 0


def run_all(stages: Sequence[Stage]) -> None:
    """Run the stages in their order, several at a time. Raises Failed at the first that does not pass."""
    waiting = [
        (f"{number}/{len(stages)} {stage.name}", stage) for number, stage in enumerate(stages, 1)
    ]
    running: dict[int, Any] = {}
    try:
        while waiting or running:
            while (found := next_of(waiting, running)) is not None:
                waiting.remove(found)
                label, stage = found
                keeper = multiprocessing.get_context("fork").Process(
                    target=keep, args=(stage, label), name=stage.name
                )
                keeper.start()
                running[keeper.sentinel] = (keeper, stage)
            for sentinel in connection.wait(list(running)):
                keeper, stage = running.pop(sentinel)
                keeper.join()
                if keeper.exitcode:
                    raise Failed(f"{stage.name}; by itself: {shown(stage)}")
    finally:
        for keeper, _stage in running.values():
            keeper.terminate()
        for keeper, _stage in running.values():
            keeper.join()


def next_of(
    waiting: Sequence[tuple[str, Stage]], running: dict[int, Any]
) -> tuple[str, Stage] | None:
    """Return the first stage that may begin now; None when none may."""
    if len(running) >= AT_ONCE:
        return None
    missing = {stage.name for _label, stage in waiting}
    missing |= {stage.name for _keeper, stage in running.values()}
    return next((found for found in waiting if not missing & set(found[1].after)), None)


def keep(stage: Stage, label: str) -> None:
    """Be the process that runs one stage and ends whatever it leaves behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Ctrl-C reaches this process, too, which the first one is about to end. Ignored, it would be so in the stage.
    signal.signal(signal.SIGINT, lambda *_: None)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    adopt_orphans()
    if stage.is_kept_to_half:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[len(cores) // 2 :])
    sys.exit(0 if run(stage, label=label) else 1)


def run(stage: Stage, *, label: str) -> bool:
    """Run one stage and say what came of it; return whether it passed.

    What stages print while they run side by side is held back until they end.
    """
    if stage.tests and not any(
        found for tests in stage.tests for found in (ROOT / tests).rglob("test_*.py")
    ):
        print(f"== {label}: no tests yet", flush=True)
        return True
    print(f"== {label}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            if stage.name == "browser tests":
                provide_chromium()
            code = call(stage, said=said)
        except Failed as failed:
            print(f"-- {label}: {failed}", flush=True)
            return False
        said.seek(0)
        took = f"{time.monotonic() - began:.1f} s"
        how = {None: f"stopped, for it may take {stage.seconds} s", 0: "passed"}.get(
            code, f"exit code {code}"
        )
        print(f"{said.read()}-- {label}: {how} after {took}", flush=True)
    return code == 0


def call(stage: Stage, *, said: Any = None) -> int | None:
    """Return the stage's exit code, None when its time was up. Nothing that it started outlives it.

    `said` is a file for what it prints; None shows it at once.
    """
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"} | stage.environment
    process = subprocess.Popen(
        stage.command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT if said else None,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=stage.seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_all_children()


def shown(stage: Stage) -> str:
    """Return the stage's command as one would type it."""
    words = [f"{name}={value}" for name, value in stage.environment.items()]
    return " ".join([*words, *(word.replace(f"{ROOT}/", "") for word in stage.command)])


def adopt_orphans() -> None:
    """Become the parent of whatever a stage leaves behind, so that it can be found and ended."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all_children() -> None:
    """End every process below this one: kindly, and after ten seconds by force."""
    for stop, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        for pid in descendants():
            try:
                os.kill(pid, stop)
            except ProcessLookupError:
                pass
        while descendants() and time.monotonic() < deadline:
            reap()
            time.sleep(0.1)
    reap()


def descendants() -> list[int]:
    """Return the processes below this one that still run, from /proc."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before the last bracket may hold blanks.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(status.parent.name)] = int(parent)
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def reap() -> None:
    """Bury the adopted processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def provide_chromium() -> None:
    """Install Chromium as root when there is none. Raises Failed."""
    if (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    ):
        return
    remedy = "apt-get update && apt-get install -y --no-install-recommends chromium"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed(
            f"browser tests need Chromium: run `{remedy}` as root, then the same command again"
        )
    print(
        "== installing Chromium for the browser tests: about 400 MB on disk, a minute", flush=True
    )
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    stage = Stage(
        "chromium", ("sh", "-c", f"{{ {remedy}; }} >/dev/null"), 300, environment=environment
    )
    if call(stage) != 0:
        raise Failed(f"could not install Chromium: run `{remedy}` as root and see what it says")


def forget_coverage() -> None:
    """Delete what an earlier, interrupted run measured."""
    for file in ROOT.glob(".coverage*"):
        file.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
