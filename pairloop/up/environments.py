"""Make the Python environments that Pairloop runs in, from its hash-pinned locks.

    python3 -m pairloop.up.environments web [check] [ml [bench]]

`web` and `check` share `.venv`, `ml` is `.venv-ml`, `bench` lies on top of that one. Runs before any of them exists, so it needs nothing but
Python itself. What is ready stays untouched; what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import importlib.util
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pairloop.up import installing
from pairloop.up.installing import Plan, Trouble

ROOT = Path(__file__).resolve().parents[2]
GIB = 1024**3
PLANS = {
    "web": Plan("web", ".venv", "Django, PostgreSQL", "about 0.4 GB on disk, under a minute", 0.7),
    "check": Plan(
        "check", ".venv", "Django and test tools", "about 0.8 GB on disk, about a minute", 1.2
    ),
    "ml-cpu": Plan(
        "ml-cpu", ".venv-ml", "vLLM, torch, transformers", "about 3 GB on disk, 2 to 5 minutes", 5
    ),
    "ml-cuda": Plan(
        "ml-cuda", ".venv-ml", "vLLM, torch and CUDA", "about 12 GB on disk, 5 to 15 minutes", 20
    ),
    "bench": Plan(
        "bench",
        ".venv-bench",
        "TRL and datasets",
        "0.3 GB on disk, half a minute",
        1,
        below=".venv-ml",
    ),
}
NAMES = ("web", "check", "ml", "bench")


def main(arguments: list[str], *, root: Path = ROOT) -> int:
    """Set up what the command line names; return the exit code."""
    signal.signal(signal.SIGTERM, _stop)
    if not arguments or not set(arguments) <= set(NAMES):
        print(f"usage: python3 -m pairloop.up.environments {'|'.join(NAMES)} ...", file=sys.stderr)
        return 2
    try:
        set_up(arguments, root=root)
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def set_up(
    names: list[str], *, root: Path = ROOT, free: Callable[[Path], int] | None = None
) -> None:
    """Bring the named environments up to date. Raises Trouble."""
    check_python(sys.version_info[:2])
    for plan in plans_of(names, gpu="ml" in names and has_gpu()):
        if is_ready(plan, root=root):
            installing.say(f"{plan.folder} is ready.")
            continue
        check_platform(
            plan, python=sys.version_info[:2], system=platform.system(), libc=platform.libc_ver()
        )
        try:
            with _locked(root) as lock_fd:
                # Somebody else may have done it while we waited.
                if is_ready(plan, root=root):
                    installing.say(f"{plan.folder} is ready.")
                else:
                    check_disk(plan, root=root, free=free or _free)
                    installing.Installation(plan, root, lock_fd).run()
        except OSError as error:
            raise Trouble(
                f"cannot write {error.filename or root} ({error.strerror}): "
                "make the folder writable, or clone Pairloop somewhere else."
            ) from error


def plans_of(names: list[str], *, gpu: bool) -> list[Plan]:
    """Return what to install, cheapest first; `check` contains `web`."""
    wanted = ["check" if "check" in names else "web"] if {"web", "check"} & set(names) else []
    if "ml" in names:
        wanted.append("ml-cuda" if gpu else "ml-cpu")
    if "bench" in names:
        wanted.append("bench")
    return [PLANS[name] for name in wanted]


def is_ready(plan: Plan, *, root: Path = ROOT) -> bool:
    """Tell, in milliseconds, whether the plan's folder holds what its lock says."""
    folder = root / plan.folder
    if not (folder / "bin" / "python").exists():
        return False
    stamp = installing.stamp_read(folder)
    enough = {plan.lock, "check"} if plan.lock == "web" else {plan.lock}
    return stamp["lock"] in enough and stamp == installing.stamp(PLANS[stamp["lock"]], root=root)


def has_gpu() -> bool:
    """Tell whether an NVIDIA GPU answers."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and b"GPU" in answer.stdout


# --- What must hold before anything is touched ---------------------------------------------------------


def check_python(version: tuple[int, int]) -> None:
    """Raise Trouble when this Python is too old or cannot make environments."""
    if version < (3, 11):
        raise Trouble(
            f"Pairloop needs Python 3.11 or newer, this is {installing.dotted(version)}: "
            "install one and name it, as in `make run PYTHON=python3.11`."
        )
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        raise Trouble(
            "Python's venv module is missing: install it with `apt-get install python3-venv`."
        )


def check_platform(
    plan: Plan, *, python: tuple[int, int], system: str, libc: tuple[str, str]
) -> None:
    """Raise Trouble when the lock has no packages for this machine."""
    name, version = libc
    if system != "Linux" or name != "glibc" or _numbers(version) < (2, 28):
        found = f"{system} with {name} {version}" if name else f"{system} without glibc"
        raise Trouble(
            f"Pairloop's packages need Linux with glibc 2.28 or newer, this is {found}: "
            "use Debian, Ubuntu or a container of them."
        )
    if plan.lock == "ml-cpu" and platform.machine() != "x86_64":
        raise Trouble(
            f"without an NVIDIA GPU the engine needs an x86_64 machine, this is {platform.machine()}: "
            "point PAIRLOOP_ENGINE_URL at a vLLM elsewhere."
        )
    if plan.lock == "ml-cpu" and python != (3, 11):
        raise Trouble(
            f"torch's CPU build is pinned for Python 3.11, this is {installing.dotted(python)}: "
            "run `make run PYTHON=python3.11`."
        )


def check_disk(plan: Plan, *, root: Path, free: Callable[[Path], int]) -> None:
    """Raise Trouble when the packages would not fit; what is installed already counts."""
    left = free(root)
    if left >= plan.gib * GIB:
        return
    there = sum(file.lstat().st_size for file in (root / plan.folder).rglob("*") if file.is_file())
    if left + there < plan.gib * GIB:
        raise Trouble(
            f"{plan.folder} needs {plan.gib:g} GB of free disk, {root} has {left / GIB:.1f} GB: "
            "free some and run the same command again."
        )


# --- Lock and small things ------------------------------------------------------------------------------


@contextmanager
def _locked(root: Path) -> Iterator[int]:
    """Hold the checkout's setup lock; yield its file descriptor."""
    path = root / "var" / "setup.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            installing.say("Another setup is under way in this folder; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _free(root: Path) -> int:
    return shutil.disk_usage(root).free


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
