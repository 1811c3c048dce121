"""Child processes: each in a session of its own, tied to its parent's life, with a log."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a program."""

    command: tuple[str, ...]
    folder: Path
    #: Added to our own environment, or to PATH alone for another user: ours may hold secrets.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: None: the user we are.
    account: Account | None = None
    #: True: nothing of our own environment but PATH, which no secret is in.
    is_closed: bool = False
    #: Descriptors that the child keeps open, such as locks.
    descriptors: tuple[int, ...] = ()


def spawn(launch: Launch, *, log: Path, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
    """Start a program that gets `death_signal` when we die, its output appended to `log`.

    Call it from a thread that outlives the child: Linux sends that signal when the *thread* that forked
    ends.
    """
    account = launch.account
    is_closed = account or launch.is_closed
    inherited = closed() if is_closed else dict(os.environ)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            launch.command,
            cwd=launch.folder,
            env=inherited | dict(launch.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=launch.descriptors,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            # The kernel forgets the signal when the user changes; this runs after that.
            preexec_fn=_tie(parent=os.getpid(), death_signal=death_signal),  # noqa: PLW1509
        )
    finally:
        os.close(output)


def closed() -> dict[str, str]:
    """Return what of our environment holds no secret: where programs are."""
    return {"PATH": os.environ.get("PATH", os.defpath)}


def group_signal(group: int, number: signal.Signals) -> bool:
    """Send a signal to a process group and return whether anybody was left to get it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def group_alive(group: int) -> bool:
    """Return whether a process group has members that are more than zombies."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # It ended meanwhile.
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


def log_rotate(log: Path) -> None:
    """Keep the previous run's log as `<name>.log.1`."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))


def log_tail(log: Path, *, lines: int) -> list[str]:
    """Return the last lines of a log that are not empty; none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    # Progress bars rewrite their line with carriage returns; splitlines() takes those as ends, too.
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _tie(*, parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    def tie() -> None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(death_signal))
        # The parent may have died just before; then no signal will ever come.
        if os.getppid() != parent:
            os._exit(1)

    return tie


def memory_available() -> int:
    """Return the bytes of memory that a new process may take without another having to go."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise OSError("/proc/meminfo does not say how much memory is available")
    return int(found[1]) * 1024
