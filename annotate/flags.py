"""Thrown away at the merge."""

from __future__ import annotations

from datetime import datetime

from annotate.models import Assignment


def flag_set(*, assignment: Assignment, is_raised: bool, note: str = "", now: datetime) -> None:
    """Raise or lower a flag."""


def is_raised(assignment: Assignment) -> bool:
    """Whether it is raised."""
    return False
