"""The loop behind `manage.py up`: starts what its specs say, in order, and keeps it running.

It knows processes, not Django. Everything happens in the main thread, because Linux ties a child's
life to the thread that started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pairloop.lib import files, processes
from pairloop.lib.errors import Refused
from pairloop.up import locks
from pairloop.up.guard import GRACE_S, Guard

TAIL_LINES = 20
FAST_CRASHES = 5
LONGEST_DELAY_S = 30.0


class AlreadyRunning(Refused):
    """Pairloop already runs on this folder."""

    code = "already_running"


class StateFolderUnusable(Refused):
    """Pairloop cannot write its state folder."""

    code = "state_folder_unusable"


class NotYet(Exception):
    """What a part needs to know before it starts cannot be found out just now; it is asked again."""


class ComponentFailed(Refused):
    """A part that Pairloop cannot do without keeps failing."""

    code = "component_failed"


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the supervisor is; tests are less so."""

    tick_s: float = 0.1
    #: Between two health checks of a part, and two looks at its log.
    check_s: float = 0.5
    #: Between two checks whether a part that was ready still answers.
    pulse_s: float = 10.0
    #: The first wait before a restart; each one after it is twice as long.
    delay_s: float = 1.0
    #: A part that ends within this time, or before it was ready, crashed fast.
    fast_s: float = 30.0
    #: How long a part may take to stop.
    stop_s: float = 10.0
    #: How long the guard of a killed supervisor may take to clean up.
    guard_s: float = GRACE_S + 7.0


def _never() -> processes.Launch:
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Spec:
    """One part of Pairloop, as data."""

    name: str
    #: Returns how to start it; asked anew at every start. Not needed where `skip` always has a reason.
    launch: Callable[[], processes.Launch] = _never
    #: Names of the parts that must be ready or done first.
    needs: tuple[str, ...] = ()
    #: Takes the epoch seconds of the start. None: a one-shot, which is done when it exits with 0.
    ready: Callable[[float], bool] | None = None
    #: Returns why there is nothing to start, as a sentence; empty: start it.
    skip: Callable[[], str] = str
    #: Called once, in our own process, as soon as it is ready for the first time.
    then: Callable[[], None] | None = None
    #: Names of the parts after whose restart it must be restarted, too.
    follows: tuple[str, ...] = ()
    #: All of Pairloop stops when it keeps failing.
    essential: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    #: Sent when it ignores the first; SIGKILL follows.
    insist_signal: signal.Signals = signal.SIGKILL
    #: Stops after all others.
    stops_last: bool = False
    #: Seconds without an answer after which it is killed and started again, while it starts and once
    #: it was ready. None: wait for ever.
    start_patience_s: float | None = None
    patience_s: float | None = None
    #: Seconds until it is ready, while this machine has no record of its own.
    expected_s: float | None = None
    #: Shown when it is ready, such as an address.
    note: str = ""


@dataclass(slots=True)
class Part:
    """A spec's present state."""

    spec: Spec
    log: Path
    state: str = "waiting"
    detail: str = ""
    since: float = 0.0
    expected_s: float | None = None
    process: subprocess.Popen[bytes] | None = None
    #: Epoch seconds.
    started: float = 0.0
    was_ready: bool = False
    #: Epoch seconds of the start, then of its last answer.
    answered: float = 0.0
    was_ready_once: bool = False
    then_done: bool = False
    #: Epoch seconds when a part that we asked to end, so it can start again, is killed; 0: not asked.
    kill_at: float = 0.0
    fast_crashes: int = 0
    delay_s: float = 0.0
    next_start: float = 0.0
    next_check: float = 0.0
    log_tail: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Return whether others may rely on it."""
        return self.state in {"ready", "done"}

    def as_status(self) -> dict[str, Any]:
        """Return what pages read."""
        return {
            "state": self.state,
            "detail": self.detail,
            "since": self.since,
            "expected_s": self.expected_s,
            "log_tail": list(self.log_tail),
        }


@contextmanager
def folder_held(
    var: Path, *, say: Callable[[str], None], pace: Pace | None = None
) -> Iterator[int]:
    """Hold a state folder for one supervisor; yields the descriptor for its guard.

    A supervisor that was killed leaves a guard behind, which stops its children; wait for it.
    Raises AlreadyRunning or StateFolderUnusable.
    """
    pace = pace or Pace()
    try:
        files.private_folder(var / "log")
        own = locks.acquire(var / "up.lock")
    except locks.LockTaken as taken:
        raise AlreadyRunning(
            f"Pairloop already runs on {var} (process {taken.pid}). Stop that one with Ctrl-C first, or set"
            " PAIRLOOP_VAR and PAIRLOOP_BIND to run another beside it."
        ) from None
    except OSError as error:
        raise StateFolderUnusable(
            f"Pairloop cannot write to {var}: {error.strerror}. Make the folder yours, or set PAIRLOOP_VAR"
            " to one that is."
        ) from None
    try:
        lock = _guard_lock(var / "guard.lock", say=say, pace=pace)
        try:
            yield lock
        finally:
            os.close(lock)
    finally:
        os.close(own)


class Supervisor:
    """Runs parts until a signal or the failure of an essential one."""

    def __init__(
        self,
        specs: Sequence[Spec],
        *,
        var: Path,
        status_file: Path,
        guard: Guard,
        say: Callable[[str], None],
        pace: Pace | None = None,
        address: str = "",
    ) -> None:
        """Take the parts in the order in which they are shown, and where pages will be, to tell commands."""
        self._var = var
        self._status_file = status_file
        self._guard = guard
        self._say = say
        self._pace = pace or Pace()
        self._address = address
        self._signals = 0
        #: From this many signals on, nothing is waited for.
        self._impatient_at = 2
        self._begun = time.time()
        self._timings = files.read_json(var / "timings.json")
        self._parts = {spec.name: self._part(spec) for spec in specs}

    def run(self) -> int:
        """Run until the end and return the exit code."""
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            while not self._signals:
                self._tick()
                time.sleep(self._pace.tick_s)
            self._say("Stopping. Press Ctrl-C again to kill everything at once.")
        except Refused as refused:
            self._say(str(refused))
            return 1
        else:
            return 0
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- One round of the loop -----------------------------------------------------------------------

    def _tick(self) -> None:
        self._guard.check()
        for part in self._parts.values():
            if self._signals:
                return
            if part.process:
                self._watch(part, part.process)
            elif part.state == "waiting" and time.time() >= part.next_start:
                try:
                    self._consider(part)
                except NotYet as missing:
                    part.next_start = time.time() + self._pace.delay_s
                    self._change(part, "waiting", str(missing))

    def _consider(self, part: Part) -> None:
        needs = [self._parts[name] for name in part.spec.needs]
        failed = [need.spec.name for need in needs if need.state == "failed"]
        if not failed and not all(need.is_up for need in needs):
            return
        # First, because what is not started misses nothing.
        if reason := part.spec.skip():
            self._change(part, "ready" if part.spec.ready else "done", reason)
            self._say(f"{part.spec.name}: {reason}")
            self._then(part)
        elif failed:
            why = f"It needs {' and '.join(failed)}, which failed."
            self._change(part, "failed", why)
            self._say(f"{part.spec.name} is not started. {why}")
        else:
            self._start(part)

    def _start(self, part: Part) -> None:
        spec = part.spec
        try:
            launch = spec.launch()
            part.process = processes.spawn(launch, log=part.log, death_signal=spec.stop_signal)
        except (Refused, OSError) as error:
            self._give_up(part, f"{spec.name} could not be started: {error}")
            return
        self._guard.watch(part.process.pid, spec.stop_signal)
        part.started = part.answered = time.time()
        part.was_ready = False
        part.next_check = 0.0
        self._change(part, "running", "Starting." if spec.ready else "Working.")
        if part.expected_s and part.expected_s > 5:
            self._say(f"{spec.name} started; this takes about {part.expected_s:.0f} s")

    def _watch(self, part: Part, process: subprocess.Popen[bytes]) -> None:
        code = process.poll()
        if code is not None:
            self._ended(part, code)
        elif part.kill_at:
            if time.time() > part.kill_at:
                process.kill()
        elif time.time() >= part.next_check and (not part.was_ready or part.spec.patience_s):
            part.next_check = time.time() + (
                self._pace.pulse_s if part.was_ready else self._pace.check_s
            )
            self._look(part)

    def _look(self, part: Part) -> None:
        if part.spec.ready is None:
            last = "".join(processes.log_tail(part.log, lines=1))
            if last and last != part.detail:
                self._change(part, "running", last)
        elif not part.spec.ready(part.started):
            self._lose_patience(part)
        else:
            part.answered = time.time()
            if not part.was_ready:
                again = part.was_ready_once
                part.was_ready = part.was_ready_once = True
                self._arrived(part, "ready")
                if again:
                    self._restart_followers(part.spec.name)

    def _lose_patience(self, part: Part) -> None:
        patience = part.spec.patience_s if part.was_ready else part.spec.start_patience_s
        silent = time.time() - part.answered
        if part.process and patience and silent > patience:
            self._say(f"{part.spec.name} has not answered for {silent:.0f} s and is killed")
            part.process.kill()

    def _arrived(self, part: Part, state: str) -> None:
        spec = part.spec
        took = time.time() - part.started
        self._timings[spec.name] = round(took, 1)
        files.write_atomic(self._var / "timings.json", json.dumps(self._timings))
        self._change(part, state, f"{state.capitalize()} after {took:.1f} s.")
        self._say(f"{spec.name} {state} after {took:.1f} s{f' - {spec.note}' if spec.note else ''}")
        self._then(part)

    def _then(self, part: Part) -> None:
        # Once only: a restarted PostgreSQL is neither migrated nor seeded again.
        if part.spec.then and not part.then_done:
            part.then_done = True
            part.spec.then()

    def _restart_followers(self, name: str) -> None:
        for part in self._parts.values():
            if name in part.spec.follows and part.was_ready and part.process:
                part.kill_at = time.time() + self._pace.stop_s
                self._change(part, "running", "Stops, to start again.")
                self._say(f"restarting {part.spec.name}, as {name} was")
                self._signal(part, part.spec.stop_signal)

    # --- What ends -------------------------------------------------------------------------------------

    def _ended(self, part: Part, code: int) -> None:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._bury(part)
        part.log_tail = tuple(processes.log_tail(part.log, lines=TAIL_LINES))
        if part.spec.ready is None:
            if code == 0:
                part.log_tail = ()
                self._arrived(part, "done")
            else:
                self._give_up(part, f"{part.spec.name} failed with {how}")
            return
        if part.kill_at:
            part.kill_at = 0.0
            part.log_tail = ()
            self._change(part, "waiting", "Starting again.")
            return
        fast = not part.was_ready or time.time() - part.started < self._pace.fast_s
        part.fast_crashes = part.fast_crashes + 1 if fast else 0
        if part.fast_crashes >= FAST_CRASHES:
            self._give_up(
                part, f"{part.spec.name} ended {FAST_CRASHES} times in a row, last with {how}"
            )
            return
        part.delay_s = (
            min(part.delay_s * 2, LONGEST_DELAY_S) if fast and part.delay_s else self._pace.delay_s
        )
        part.next_start = time.time() + part.delay_s
        self._change(part, "waiting", f"Ended with {how}; starts again in {part.delay_s:.0f} s.")
        self._say(f"{part.spec.name} ended with {how}; it starts again in {part.delay_s:.0f} s")

    def _bury(self, part: Part) -> None:
        """Kill what a part that ended left in its process group."""
        if part.process:
            processes.group_signal(part.process.pid, signal.SIGKILL)
            part.process.wait()
            self._guard.forget(part.process.pid)
            part.process = None

    def _give_up(self, part: Part, why: str) -> None:
        tail = "".join(f"\n    {line}" for line in part.log_tail)
        self._change(part, "failed", f"{why}.")
        if part.spec.essential:
            raise ComponentFailed(f"{why}. The end of {part.log}:{tail}")
        self._say(f"{why}; the rest keeps running. The end of {part.log}:{tail}")

    # --- The end ---------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._impatient_at = 2 if self._signals else 1
        for last in (False, True):
            self._stop_together(
                [part for part in self._parts.values() if part.spec.stops_last is last]
            )
        for part in self._parts.values():
            if part.state not in {"failed", "done"}:
                self._change(part, "stopped", "Pairloop is not running.")
        self._say(f"Stopped after {time.time() - self._begun:.0f} s.")

    def _stop_together(self, parts: list[Part]) -> None:
        alive = [part for part in reversed(parts) if part.process]
        for part in alive:
            self._say(f"stopping {part.spec.name}")
            self._signal(part, part.spec.stop_signal)
        self._wait(alive, seconds=self._pace.stop_s)
        for part in alive:
            if self._signal(part, part.spec.insist_signal):
                self._say(
                    f"{part.spec.name} does not stop by itself; sent it {part.spec.insist_signal.name}. Nothing that"
                    " was stored is lost"
                )
        self._wait(alive, seconds=2.0)
        for part in alive:
            self._bury(part)

    def _wait(self, parts: list[Part], *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(part.process and part.process.poll() is None for part in parts):
            if time.monotonic() > deadline or self._signals >= self._impatient_at:
                return
            time.sleep(0.02)

    def _signal(self, part: Part, number: signal.Signals) -> bool:
        if not part.process or part.process.poll() is not None:
            return False
        part.process.send_signal(number)
        return True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    # --- What others see -------------------------------------------------------------------------------

    def _part(self, spec: Spec) -> Part:
        log = self._var / "log" / f"{spec.name}.log"
        processes.log_rotate(log)
        known = self._timings.get(spec.name)
        expected = known if isinstance(known, int | float) and spec.expected_s else spec.expected_s
        waits = f"Waits for {' and '.join(spec.needs)}." if spec.needs else "Not started yet."
        return Part(spec=spec, log=log, detail=waits, since=time.time(), expected_s=expected)

    def _change(self, part: Part, state: str, detail: str) -> None:
        if state != part.state:
            part.since = time.time()
        part.state = state
        part.detail = detail
        if state in {"ready", "done"}:
            part.log_tail = ()
        components = {name: part.as_status() for name, part in self._parts.items()}
        status = {"address": self._address, "components": components}
        files.write_atomic(self._status_file, json.dumps(status))


def _guard_lock(path: Path, *, say: Callable[[str], None], pace: Pace) -> int:
    try:
        return locks.acquire(path)
    except locks.LockTaken:
        say("Waiting for the rest of the previous run to stop")
    try:
        return locks.acquire(path, wait_s=pace.guard_s)
    except locks.LockTaken:
        raise AlreadyRunning(
            f"The previous run was killed and its parts do not stop. See who holds {path} and end that."
        ) from None
