"""What the people page reads: who may judge a model, what they did, and what was changed about them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Aggregate, Count, Exists, FloatField, Max, OuterRef, Q

from annotate.models import Assignment
from annotate.queries import judgements_standing
from models_registry.models import Membership, PersonChange, RegisteredModel

#: Changes that the page shows; all of them are in the table.
MOST_CHANGES = 50


class Median(Aggregate):
    """PostgreSQL's median of an expression."""

    function = "PERCENTILE_CONT"
    template = "%(function)s(0.5) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody on the page of a model."""

    user: User
    is_member: bool
    today: int
    in_all: int
    #: Median time of active reading for one judgement; None when no browser measured any.
    median_s: float | None
    #: When they last logged in or were given a pair.
    seen_at: datetime | None

    @property
    def may_judge(self) -> bool:
        """Whether pairs of the model are given to them."""
        return self.user.is_active and (self.is_member or self.user.is_staff)


@dataclass(frozen=True, slots=True)
class People:
    """Everybody, as a model's page shows them."""

    #: Members and admins.
    here: list[Person]
    elsewhere: list[Person]

    @property
    def has_labelers(self) -> bool:
        """Whether anybody but admins may judge the model."""
        return any(person.may_judge and not person.user.is_staff for person in self.here)


def people_of(*, model: RegisteredModel, since: datetime) -> People:
    """Return everybody with what they judged of a model, in all and since a moment. Three queries."""
    work = _work(model=model, since=since)
    assigned = dict(Assignment.objects.values_list("labeler").annotate(last=Max("assigned_at")))
    member = Membership.objects.filter(model=model, user=OuterRef("pk"))
    users = User.objects.annotate(is_member=Exists(member))
    people = [
        Person(
            user=user,
            is_member=user.is_member,
            seen_at=max(filter(None, [user.last_login, assigned.get(user.pk)]), default=None),
            **work.get(user.pk, {"today": 0, "in_all": 0, "median_s": None}),
        )
        for user in users.order_by("-is_active", "-is_staff", "username")
    ]
    return People(
        here=[person for person in people if person.is_member or person.user.is_staff],
        elsewhere=[person for person in people if not (person.is_member or person.user.is_staff)],
    )


def _work(*, model: RegisteredModel, since: datetime) -> dict[int, dict[str, Any]]:
    """Return what each labeler's standing judgements of a model amount to."""
    rows = (
        judgements_standing()
        .filter(assignment__pair__prompt__model=model)
        .values_list("assignment__labeler")
        .annotate(
            in_all=Count("pk"),
            today=Count("pk", filter=Q(judged_at__gte=since)),
            median_ms=Median("active_ms", filter=Q(active_ms__gt=0)),
        )
    )
    return {
        labeler: {
            "in_all": in_all,
            "today": today,
            "median_s": None if median_ms is None else median_ms / 1000,
        }
        for labeler, in_all, today, median_ms in rows
    }


def changes_of(model: RegisteredModel) -> list[PersonChange]:
    """Return what was last changed about people, at this model or at no model in particular."""
    changes = PersonChange.objects.select_related("person", "made_by")
    return list(changes.filter(Q(model=model) | Q(model=None)).order_by("-pk")[:MOST_CHANGES])
