"""Thrown away at the merge: the interface over today's actions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from annotate import actions, queries
from annotate.actions import QueueEmpty, VerdictUnknown, judgement_undo  # noqa: F401
from annotate.models import Assignment, Judgement
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused

AHEAD = 2
WAITING = timedelta(minutes=5)


class TooManySetAside(Refused):
    """Twenty pairs are set aside already. Judge some of them first."""

    code = "too_many_set_aside"


@dataclass(frozen=True, slots=True)
class Recorded:
    judgement: Judgement
    is_new: bool
    today: int
    in_all: int


@transaction.atomic
def pair_assign(
    *,
    model: RegisteredModel,
    labeler: User,
    now: datetime,
    have: Collection[UUID] = (),
    is_ahead: bool = False,
) -> Assignment:
    held = (
        queries._with_pair()
        .filter(labeler=labeler, closed_at=None, expires_at__gt=now, pair__prompt__model=model)
        .exclude(uuid__in=have)
        .order_by("-expires_at", "uuid")
        .first()
    )
    if held:
        return held
    entry = actions._next_entry(model=model, labeler=labeler)
    if entry is None:
        raise QueueEmpty
    from django.db.models import F

    type(entry).objects.filter(pk=entry.pk).update(leased=F("leased") + 1)
    assignment, _ = Assignment.objects.update_or_create(
        pair_id=entry.pk,
        labeler=labeler,
        defaults={"expires_at": now + timedelta(minutes=30), "closed_at": None, "is_on_top": False},
        create_defaults={
            "first_is_left": actions._first_goes_left(labeler),
            "assigned_at": now,
            "expires_at": now + timedelta(minutes=30),
        },
    )
    return queries.assignment_with_pair(assignment.uuid)


def leases_keep(
    *, model: RegisteredModel, labeler: User, shown: UUID | None, waiting: Sequence[UUID], now: datetime
) -> list[UUID]:
    return list(
        Assignment.objects.filter(uuid__in=[*waiting, *([shown] if shown else [])], labeler=labeler, closed_at=None)
        .values_list("uuid", flat=True)
    )


def pair_later(*, assignment: Assignment, now: datetime) -> None:
    Assignment.objects.filter(pk=assignment.pk).update(expires_at=now + timedelta(minutes=1))


def judgement_record(
    *,
    assignment: Assignment,
    verdict: str,
    now: datetime,
    reasons: Sequence[str] = (),
    note: str = "",
    active_ms: int = 0,
    shown_at: datetime | None = None,
    by: str = "api",
    revise: bool = False,
) -> Recorded:
    common: dict[str, Any] = {"reasons": reasons, "note": note, "active_ms": active_ms}
    judgement, is_new = actions.judgement_record(assignment=assignment, verdict=verdict, now=now, **common)
    if not is_new and revise:
        judgement = Judgement.objects.create(
            assignment=assignment, revision=judgement.revision + 1, verdict=verdict,
            winner=actions._winner(assignment, verdict), guidelines_version=1, judged_at=now,
            reasons=list(reasons), note=note,
        )
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    progress = queries.judging_progress(
        model=assignment.pair.prompt.model, labeler=assignment.labeler, since=midnight
    )
    return Recorded(judgement, is_new, progress.today, progress.in_all)
