"""One attempt at a round: start the trainer, listen to it, keep the lease, publish what it made.

The trainer is a program of its own: only a process can be killed, and torch inside the worker would keep
it from saying that it lives.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from models_registry import store
from pairloop.lib import files, jobs
from pairloop.lib.errors import Refused
from training import actions, queries
from training.launchers import Launcher, LocalLauncher
from training.models import RoundAttempt
from training.progress import Progress

logger = logging.getLogger(__name__)

#: Between two looks at the trainer, and two renewals of the lease.
LOOK_S = 0.25
RENEW_S = 2.0
#: How long the trainer may take to reach the end of a step and write a checkpoint.
STOP_S = 6.0
#: The trainer's own exit code for "stopped after a checkpoint".
STOPPED = 75


def round_run(*, round_id: int, worker: str, should_stop: Callable[[], bool]) -> None:
    """Try a round once, from its last checkpoint on; nothing happens when somebody else is at it."""
    attempt = actions.attempt_begin(round_id=round_id, worker=worker)
    if attempt is None:
        return
    try:
        folder = folder_prepare(attempt)
        with jobs.alone(jobs.TRAINER):
            Watch(attempt, folder, should_stop).run()
        _tidy(folder)
    except OSError as error:
        why = f"The run folder cannot be used: {error.strerror or error}. Make room or mend it, then start again."
        actions.round_fail(attempt=attempt, code="run_folder_unusable", why=why)


def _tidy(folder: Path) -> None:
    """Delete the checkpoints of an attempt that has become a version; a lost one's are still needed."""
    if files.read_json(folder / "result.json").get("outcome") == "done":
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def attempt_folder(attempt: RoundAttempt) -> Path:
    """Return the folder that one attempt has to itself: a stray trainer of an earlier one harms nobody."""
    round_ = attempt.round
    return actions.round_folder(round_.model.slug, round_.number) / f"attempt-{attempt.number}"


def folder_prepare(attempt: RoundAttempt) -> Path:
    """Give the trainer its inputs, and the checkpoints of the attempt before."""
    folder = attempt_folder(attempt)
    # Of another database that had this state folder, say before a restore.
    shutil.rmtree(folder, ignore_errors=True)
    files.private_folder(folder)
    for name in ("snapshot.jsonl", "holdout.jsonl"):
        (folder / name).hardlink_to(folder.parent / name)
    spec = actions.run_spec(attempt.round)
    files.write_atomic(folder / "run.json", json.dumps(spec, indent=2, sort_keys=True))
    for earlier in queries.earlier_attempts(attempt):
        done = attempt_folder(earlier) / "checkpoints"
        if any(done.glob("step-*")):
            shutil.copytree(done, folder / "checkpoints")
            break
    return folder


class Watch:
    """The trainer of one attempt from its start to what became of it."""

    def __init__(
        self, attempt: RoundAttempt, folder: Path, should_stop: Callable[[], bool]
    ) -> None:
        """Take the attempt and its prepared folder."""
        self._attempt = attempt
        self._folder = folder
        self._should_stop = should_stop
        self._launcher: Launcher = LocalLauncher()
        self._progress = Progress(batch_pairs=int(attempt.round.spec["batch_pairs"]))
        self._events = Events(folder / "events.jsonl")
        self._renew_at = 0.0

    def run(self) -> None:
        """Start the trainer and stay with it; every way it can end has its own conclusion."""
        try:
            handle = self._launcher.start(self._folder)
        except OSError as error:
            why = f"{settings.ML_PYTHON} does not start: {error.strerror}."
            actions.attempt_fail(attempt=self._attempt, why=why)
            return
        try:
            self._heard(pid=handle.number)
            while self._launcher.poll(handle) is None:
                time.sleep(LOOK_S)
                if self._should_stop():
                    self._launcher.stop(handle, seconds=STOP_S)
                    actions.attempt_lose(attempt=self._attempt, why="Its worker was stopped.")
                    return
                if time.monotonic() >= self._renew_at and not self._heard():
                    logger.warning("%s lost its lease or was cancelled", self._attempt)
                    return
            self._heard()
        finally:
            code = self._launcher.stop(handle)
        self._conclude(code, said=self._launcher.logs(handle, lines=1))

    def _heard(self, **fields: Any) -> bool:
        """Pass on what the trainer said and renew the lease; False when the attempt is over.

        While the database is away the trainer goes on; whether the lease lasted is seen when it is back.
        """
        self._renew_at = time.monotonic() + RENEW_S
        for event in self._events.new():
            self._progress.hear(event)
        left = self._progress.seconds_left
        told = {
            "stage": self._progress.stage,
            "stage_done": self._progress.done,
            "stage_of": self._progress.of,
            "progress": self._progress.fraction,
            "eta_s": None if left is None else round(left),
        }
        try:
            held = actions.attempt_heard(
                attempt=self._attempt, metrics=self._progress.metrics, **told | fields
            )
        except DatabaseError as error:
            logger.warning("the database is away while %s trains: %s", self._attempt, error)
            connection.close()
            return True
        self._progress.metrics_taken()
        return held

    def _conclude(self, code: int, *, said: list[str]) -> None:
        """Settle the attempt by how its trainer ended and the last line it wrote."""
        result = files.read_json(self._folder / "result.json")
        if result.get("outcome") == "done":
            self._publish(result)
        elif result.get("outcome") == "failed":
            actions.round_fail(
                attempt=self._attempt,
                code=str(result.get("code", "failed")),
                why=str(result.get("detail", "The trainer gave no reason.")),
            )
        elif code == STOPPED:
            # Somebody asked the trainer itself to stop; the sweeper queues the round again.
            actions.attempt_lose(attempt=self._attempt, why="Its trainer was asked to stop.")
        else:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            why = f"It ended with {how}." + (
                f" Last line: {said[0][:300]}" if said and code > 0 else ""
            )
            actions.attempt_fail(attempt=self._attempt, why=why)

    def _publish(self, result: dict[str, Any]) -> None:
        """Put the artifact into the store and register it; the lease says whether we still may."""
        if not self._heard(stage="publishing"):
            return
        try:
            artifact = store.artifact_store(self._folder / "version")
            version = actions.round_finish(
                attempt=self._attempt,
                artifact=artifact,
                metrics={
                    "training": result.get("metrics", {}),
                    "dropped": result.get("dropped", {}),
                },
                card=_card(artifact.path),
                holdout=files.read_json(self._folder / "eval.json"),
                now=timezone.now(),
            )
        except actions.LeaseLost:
            logger.warning(
                "%s lost its lease while publishing; nothing was registered", self._attempt
            )
        except Refused as refused:
            actions.round_fail(attempt=self._attempt, code=refused.code, why=str(refused))
        else:
            logger.info("%s became %s", self._attempt.round, version)


def _card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


class Events:
    """The trainer's events as they are appended."""

    def __init__(self, path: Path) -> None:
        """Take a file that need not be there yet."""
        self._path = path
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """Return what came since the last call, whole lines only."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text.rpartition(b"\n")[0]
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [found for line in whole.splitlines() if (found := _event(line)) is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
