"""The process that cleans up when the supervisor is killed: `python -m pairloop.up.guard LOCK`.

It reads from its standard input which process groups live. When that input ends, the supervisor is
gone, and whatever it left behind is stopped. LOCK is a descriptor it only keeps open: the next
supervisor waits for that lock.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from pairloop.lib import processes

GRACE_S = 8.0


class Guard:
    """The supervisor's side: starts the process and tells it what lives."""

    def __init__(self, *, lock: int) -> None:
        """Start it, holding the descriptor `lock` open."""
        self._lock = lock
        self._groups: dict[int, signal.Signals] = {}
        self._process = self._start()

    def watch(self, group: int, stop_signal: signal.Signals) -> None:
        """Have a process group stopped by this signal when we die."""
        self._groups[group] = stop_signal
        self._tell(f"+{group} {int(stop_signal)}\n")

    def forget(self, group: int) -> None:
        """Leave a process group alone from now on: it is gone."""
        self._groups.pop(group, None)
        self._tell(f"-{group}\n")

    def check(self) -> None:
        """Start another guard when somebody killed this one."""
        if self._process.poll() is None:
            return
        self._process = self._start()
        for group, stop_signal in self._groups.items():
            self._tell(f"+{group} {int(stop_signal)}\n")

    def close(self) -> None:
        """End it; it stops whatever is still watched."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "pairloop.up.guard", str(self._lock)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # A session of its own: Ctrl-C in the terminal must not end the one who cleans up.
            start_new_session=True,
            pass_fds=[self._lock],
        )

    def _tell(self, line: str) -> None:
        if not self._process.stdin:
            return
        try:
            self._process.stdin.write(line.encode("ascii"))
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # check() starts another and tells it everything.


def groups_read(lines: list[str]) -> dict[int, signal.Signals]:
    """Return the groups alive after these lines: `+group signal` or `-group`."""
    groups: dict[int, signal.Signals] = {}
    for line in lines:
        if line.startswith("+"):
            group, number = line[1:].split()
            groups[int(group)] = signal.Signals(int(number))
        else:
            groups.pop(int(line[1:]), None)
    return groups


def groups_stop(groups: dict[int, signal.Signals], *, grace_s: float) -> None:
    """Send each group its stop signal, and SIGKILL to what is left after `grace_s` seconds."""
    deadline = time.monotonic() + grace_s
    left = [group for group, number in groups.items() if processes.group_signal(group, number)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [group for group in left if processes.group_alive(group)]
    for group in left:
        processes.group_signal(group, signal.SIGKILL)


def main() -> None:
    """Wait for the end of the input, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups_stop(groups_read(sys.stdin.readlines()), grace_s=GRACE_S)


if __name__ == "__main__":
    main()
