"""Deferring jobs from inside a transaction, and running one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DatabaseError, connection, transaction
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import JobDeferrer
from procrastinate.tasks import Task

#: Held while a round trains: the machine has better to do then than to write pairs ahead.
TRAINER = "trainer"


def defer_once(task: Task[Any, Any, Any] | JobDeferrer, **arguments: Any) -> None:
    """Defer a task that has a queueing lock, unless the same one already waits.

    The unique violation would abort the caller's transaction, so the defer has a savepoint of its own.
    """
    try:
        with transaction.atomic():
            task.defer(**arguments)
    except AlreadyEnqueued:
        pass


def is_under_way(queueing_lock: str) -> bool:
    """Return whether a job with this queueing lock waits or runs."""
    jobs = ProcrastinateJob.objects.filter(
        queueing_lock=queueing_lock, status__in=["todo", "doing"]
    )
    return jobs.exists()


@contextmanager
def alone(name: str) -> Iterator[bool]:
    """Yield whether nobody else does the thing of this name just now.

    An advisory lock of the database, which ends with the connection that took it. procrastinate's own
    `lock` does not: a job whose worker was killed would keep it for ever.
    """
    key = _key(name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        taken = cursor.fetchone() == (True,)
    try:
        yield taken
    finally:
        if taken:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [key])
            except DatabaseError:
                # The connection broke, and the lock ended with it.
                connection.close()


def in_turn(name: str) -> None:
    """Wait until no other transaction does the thing of this name; ours does until it ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_key(name)])


def is_done_by_somebody(name: str) -> bool:
    """Return whether somebody does the thing of this name `alone` just now."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32) | objid::bigint = %s)",
            [_key(name)],
        )
        return bool(cursor.fetchone() == (True,))


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
