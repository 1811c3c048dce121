"""Where a trainer runs. What watches it knows only this interface, so another place is another class."""

from __future__ import annotations

import logging
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from django.conf import settings

from pairloop.lib import processes

logger = logging.getLogger(__name__)

LOG = "log.txt"


@dataclass(frozen=True, slots=True)
class Handle:
    """A trainer that was started: the number that its place gave it, and its run folder."""

    number: int
    folder: Path


class Launcher(Protocol):
    """A place where trainers run; the run folder must be the same files there as here."""

    def start(self, folder: Path) -> Handle:
        """Start the trainer on a run folder. Raises OSError."""

    def poll(self, handle: Handle) -> int | None:
        """Return the exit code, below zero the signal that ended it; None while it runs."""

    def stop(self, handle: Handle, *, seconds: float = 0) -> int:
        """Ask for a checkpoint and the end, wait so long, then kill what is left; return the exit code.

        Without seconds nobody is asked. Stopping what has ended is right, and kills what it left behind.
        """

    def logs(self, handle: Handle, *, lines: int) -> list[str]:
        """Return the last lines that it wrote."""


class LocalLauncher:
    """Trainers as processes of this machine, each a group that dies with the thread that started it."""

    def __init__(self) -> None:
        """Begin without any."""
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, folder: Path) -> Handle:
        """Start the trainer in `.venv-ml`; its number is the process's."""
        process = processes.spawn(launch(folder), log=folder / LOG, death_signal=signal.SIGKILL)
        self._processes[process.pid] = process
        return Handle(number=process.pid, folder=folder)

    def poll(self, handle: Handle) -> int | None:
        """Look whether the process has ended."""
        return self._processes[handle.number].poll()

    def stop(self, handle: Handle, *, seconds: float = 0) -> int:
        """Terminate the process, and kill its whole group at last."""
        process = self._processes[handle.number]
        try:
            if seconds:
                process.terminate()
                process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            logger.warning("the trainer in %s does not stop and is killed", handle.folder)
        finally:
            processes.group_signal(process.pid, signal.SIGKILL)
        return process.wait()

    def logs(self, handle: Handle, *, lines: int) -> list[str]:
        """Read the end of the file that its output goes to."""
        return processes.log_tail(handle.folder / LOG, lines=lines)


def launch(folder: Path) -> processes.Launch:
    """Return how to start the trainer on a run folder; it learns nothing but what is in there."""
    return processes.Launch(
        command=(str(settings.ML_PYTHON), "-m", "training.dpo", str(folder)),
        folder=settings.BASE_DIR,
        environment={
            "HOME": str(folder),
            "OMP_NUM_THREADS": str(settings.TRAINER_THREADS),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        is_closed=True,
    )
