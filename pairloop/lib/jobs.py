"""Deferring jobs from inside a transaction."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.tasks import Task


def defer_once(task: Task[Any, Any, Any], **arguments: Any) -> None:
    """Defer a task that has a queueing lock, unless the same one already waits.

    The unique violation would abort the caller's transaction, so the defer has a savepoint of its own.
    """
    try:
        with transaction.atomic():
            task.defer(**arguments)
    except AlreadyEnqueued:
        pass
