"""Run the checks and tests, cheapest first, and stop at the first that fails.

    .venv/bin/python -m tests.run all|check

`make test` and `make check` set up the environments and call this.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
ML_PYTHON = ROOT / ".venv-ml" / "bin" / "python"
COVERAGE = ("coverage", "run", "--rcfile=pyproject.toml", "-m")
#: Their tests run in .venv-ml, and importing them needs it.
ML_FOLDERS = ("tests/convert", "tests/training/dpo")
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


def unit(*, coverage: bool) -> Stage:
    """Return the tests that need neither Chromium nor torch nor vLLM."""
    runner = python(*COVERAGE, "pytest") if coverage else python("pytest")
    without = [f"--ignore={folder}" for folder in ML_FOLDERS]
    return Stage("unit tests", (*runner, "-q", *without), seconds=1200, tests=("tests",))


def whole() -> list[Stage]:
    """Return the stages with a browser, with torch and with a real engine, and the coverage of them all."""
    ml = (str(ML_PYTHON), "-m", *COVERAGE, "pytest", "-q", "-c", "tests/ml.toml", "--rootdir", ".")
    covered = python(*COVERAGE, "pytest", "-q")
    return [
        Stage(
            "browser tests", (*covered, "-m", "e2e", "tests/e2e"), seconds=900, tests=("tests/e2e",),
            # Playwright's loop makes Django take every test for asynchronous.
            environment={"DJANGO_ALLOW_ASYNC_UNSAFE": "true"},
        ),
        *[Stage(f"{folder} with torch", (*ml, folder), seconds=600, tests=(folder,)) for folder in ML_FOLDERS],
        Stage("exports with TRL", (*covered, "-m", "bench", "tests/bench"), seconds=420, tests=("tests/bench",)),
        Stage(
            "the journey, with a real engine",
            (*covered, "-m", "engine", "-s", "-p", "no:randomly", "--timeout", "0", "tests/loop"),
            seconds=2400,
            tests=("tests/loop",),
        ),
        Stage("one turn of the loop", python("tests.loop"), seconds=1800, tests=("tests/loop",)),
        Stage("combine coverage", python("coverage", "combine", "--quiet")),
        Stage("coverage", python("coverage", "report")),
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the stages that the command line names; return the exit code."""
    if arguments not in (["all"], ["check"]):
        print("usage: .venv/bin/python -m tests.run all|check", file=sys.stderr)
        return 2
    everything = arguments == ["all"]
    stages = [*static(), unit(coverage=everything), *(whole() if everything else [])]
    began = time.monotonic()
    adopt_orphans()
    try:
        forget_coverage()
        for number, stage in enumerate(stages, start=1):
            run(stage, label=f"{number}/{len(stages)} {stage.name}")
    except Failed as failed:
        print(f"\nFAILED: {failed}", flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
        return 130
    print(f"\nPassed: {len(stages)} stages in {time.monotonic() - began:.0f} s.")
    return 0


def run(stage: Stage, *, label: str) -> None:
    """Run one stage. Raises Failed."""
    if stage.tests and not any(
        found for tests in stage.tests for found in (ROOT / tests).rglob("test_*.py")
    ):
        print(f"== {label}: no tests yet", flush=True)
        return
    if stage.name == "browser tests":
        provide_chromium()
    print(f"== {label}", flush=True)
    began = time.monotonic()
    code = call(stage)
    took = f"{time.monotonic() - began:.1f} s"
    if code is None:
        raise Failed(f"{stage.name} took longer than {stage.seconds} s and was stopped")
    if code:
        raise Failed(f"{stage.name} (exit code {code} after {took}); by itself: {shown(stage)}")
    print(f"   {took}", flush=True)


def call(stage: Stage) -> int | None:
    """Return the stage's exit code, None when its time was up. Nothing that it started outlives it."""
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"} | stage.environment
    process = subprocess.Popen(
        stage.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
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
