"""Locks that live exactly as long as the processes that hold them."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from pairloop.lib.errors import Refused


class LockTaken(Refused):
    """Another process holds this lock."""

    code = "lock_taken"

    def __init__(self, *, pid: str) -> None:
        """Name the process that wrote itself into the lock file."""
        super().__init__()
        #: As the file says; empty when the holder has not written it yet.
        self.pid = pid


def acquire(path: Path, *, wait_s: float = 0.0) -> int:
    """Return a descriptor that holds an exclusive lock; closing its last copy frees it.

    A descriptor handed to a child (pass_fds) keeps the lock for the child's life as well, so a free
    lock proves that nobody of the last run is left. Raises LockTaken after `wait_s` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise LockTaken(pid=path.read_text(encoding="ascii").strip()) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        return descriptor
