"""Flags: a labeler marks a pair for staff to look at, and staff answers."""

from __future__ import annotations

from datetime import datetime

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet

from annotate.models import Assignment, Flag
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused

#: What fits on a page; a labeler's note is cut there rather than refused.
MOST_NOTE = 2000


class ResolutionMissing(Refused):
    """Say in a sentence what came of the flag."""

    code = "resolution_missing"


@transaction.atomic
def flag_set(*, assignment: Assignment, is_raised: bool, note: str = "", now: datetime) -> None:
    """Raise a flag on an assignment, or take it back. Repeating it changes nothing but the note.

    One that staff resolved stays resolved; raised after that, it is a new one.
    """
    # One after the other: two tabs would raise it twice.
    Assignment.objects.select_for_update(no_key=True).get(pk=assignment.pk)
    raised = _open(assignment)
    note = note.strip()[:MOST_NOTE]
    if not is_raised:
        raised.update(taken_back_at=now)
    elif not raised.exists():
        Flag.objects.create(
            assignment=assignment,
            model_id=assignment.pair.prompt.model_id,
            note=note,
            raised_at=now,
        )
    elif note:
        raised.update(note=note)


def flag_resolve(*, flag: Flag, resolution: str, by: User, now: datetime) -> None:
    """Close a flag with a sentence. One that was resolved or taken back meanwhile stays so. Raises Refused."""
    resolution = resolution.strip()[:MOST_NOTE]
    if not resolution:
        raise ResolutionMissing
    Flag.objects.filter(pk=flag.pk, taken_back_at=None, resolved_at=None).update(
        resolved_at=now, resolved_by=by, resolution=resolution
    )


def flag_of(*, model: RegisteredModel, pk: int) -> Flag:
    """Return a model's flag. Raises Flag.DoesNotExist."""
    return Flag.objects.get(model=model, pk=pk)


def flags_of(model: RegisteredModel, *, is_open: bool, limit: int) -> list[Flag]:
    """Return the newest flags that wait for staff, or that staff resolved, with pair and labeler."""
    flags = Flag.objects.filter(model=model, taken_back_at=None, resolved_at__isnull=is_open)
    return list(
        flags.select_related(
            "assignment__labeler", "assignment__pair__prompt", "resolved_by"
        ).order_by("-raised_at", "-pk")[:limit]
    )


def _open(assignment: Assignment) -> QuerySet[Flag, Flag]:
    return Flag.objects.filter(assignment=assignment, taken_back_at=None, resolved_at=None)
