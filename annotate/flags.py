"""Flags, until part quality's module of this name is merged: nothing is kept."""

from __future__ import annotations

from datetime import datetime

from annotate.models import Assignment


def flag_set(*, assignment: Assignment, is_raised: bool, note: str = "", now: datetime) -> None:
    """Raise a flag, or lower it."""


def is_raised(assignment: Assignment) -> bool:
    """Whether it is raised."""
    return False
