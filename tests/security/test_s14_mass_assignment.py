"""S14: fields that nobody offers change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django import forms
from django.contrib.auth.models import User
from django_filters import FilterSet
from rest_framework import serializers

from annotate.models import Assignment, Completion, Judgement, Pair, Prompt
from models_registry.models import Membership, ModelVersion, RegisteredModel
from pairloop.accounts.models import Token
from tests.security.routes import Route, routes
from tests.security.world import World

#: Bodies that are good without the rest; those of other routes are refused or empty.
GOOD: dict[str, dict[str, Any]] = {
    "account": {"name": "mine", "days": "30"},
    "api-tokens": {"name": "mine"},
    "judgement": {"verdict": "left"},
    "api-judgement": {"verdict": "left"},
    "people": {"username": "newcomer", "role": "labeler"},
    "api-prompts": {"prompt": "Say hello."},
    "api-attacks": {"prompt": "Say nothing."},
    "judge_prompt": {"prompt": "Say nothing at all."},
    "api-alias": {"version": 0, "reason": "So."},
    "version-promote": {"reason": "So."},
}
UNSAFE = [
    route for route in routes() if {"post", "put", "patch"} & set(route.methods)
    and route.name not in {"login", "logout", "admin-login", "healthz", "readyz", "api-missing"}
]  # fmt: skip
#: Rows that no request of this test may change, and what may be added to their tables.
KEPT = (User, Membership, RegisteredModel, ModelVersion, Completion, Pair)


Rows = dict[tuple[str, Any], Any]


def evil(world: World) -> dict[str, Any]:
    """Return what somebody might add to a body."""
    staff = world.users["staff"].pk
    return {
        "id": 1, "pk": 1, "uuid": "00000000-0000-0000-0000-000000000000", "user": staff, "user_id": staff,
        "labeler": staff, "labeler_id": staff, "is_staff": True, "is_superuser": True, "is_active": True,
        "password": "x", "username": "root", "groups": [1], "memberships": [1], "weight": 9, "target": 1,
        "model": world.other.pk, "model_id": world.other.pk, "model_version": 2, "split": "holdout", "purpose": "gold",
        "is_gold": True, "winner": 1, "winner_id": 1, "revision": 99, "is_late": True, "is_on_top": True,
        "guidelines_version": 99, "judged_at": "2001-01-01T00:00:00Z", "digest": "0" * 128, "token_key": "pl_mine",
        "expiry": "2999-01-01T00:00:00Z", "expires_at": "2999-01-01T00:00:00Z", "by": 1, "now": "2999-01-01",
        "last_used_at": "2001-01-01T00:00:00Z", "moved_by": staff, "started_by": staff, "state": "verified",
        "sha256": "0" * 64, "first_is_left": False, "author": staff, "author_id": staff, "asked": 99, "tags": ["mine"],
    }  # fmt: skip


def kept(before: Rows | None = None) -> Rows:
    """Return the rows that must stay as they are; given those before, only these."""
    found = {
        (kind.__name__, row.pk): kind.objects.values().get(pk=row.pk)
        for kind in KEPT
        for row in kind.objects.all()
    }
    for row in found.values():
        # Django's to write.
        row.pop("last_login", None)
    return found if before is None else {key: found.get(key) for key in before}


@pytest.mark.django_db
@pytest.mark.parametrize("route", UNSAFE, ids=str)
def test_fields_that_nobody_offers_change_nothing(world: World, route: Route) -> None:
    before, wrong = kept(), evil(world)
    for role in ("member", "staff"):
        client = world.client(role)
        for body in (wrong, wrong | GOOD.get(route.name, {})):
            sent: Any = [body] if route.name == "api-prompts" else body
            if route.is_api:
                answer = client.post(world.url(route), sent, content_type="application/json")
            else:
                answer = client.post(world.url(route), sent)
            assert answer.status_code < 500

        assert kept(before) == before
        rows_are_honest(world)


def rows_are_honest(world: World) -> None:
    """Whatever was made belongs to whoever made it, and has no value that was sent with it."""
    for person in User.objects.exclude(pk__in=[user.pk for user in world.users.values()]):
        assert not person.is_superuser
        assert not person.is_staff
        assert not person.has_usable_password() or person.username.startswith("labeler-")
    for token in Token.objects.all():
        assert token.digest != "0" * 128
        assert token.expiry.year < 2100
    assert Token.objects.filter(user=world.users["stranger"]).count() == 0
    for judgement in Judgement.objects.filter(assignment=world.assignment):
        assert (judgement.revision, judgement.is_late, judgement.guidelines_version) == (
            1,
            False,
            1,
        )
        assert judgement.winner_id in {None, world.assignment.left.pk}
    mine = Assignment.objects.get(pk=world.assignment.pk)
    assert (mine.labeler, mine.first_is_left) == (world.users["member"], True)
    assert Prompt.objects.filter(model=world.other).count() == 3
    assert not Prompt.objects.filter(sha256="0" * 64).exists()
    for prompt in Prompt.objects.filter(author__isnull=False):
        assert (prompt.tags, prompt.asked) == (["attack"], 0)


@pytest.mark.django_db
def test_the_good_bodies_are_good(world: World) -> None:
    """So that the test above really sees rows being made."""
    for name, body in GOOD.items():
        route = next(route for route in UNSAFE if route.name == name)
        role = "member" if "judgement" in name else "staff"
        sent: Any = [body] if name == "api-prompts" else body
        kind = {"content_type": "application/json"} if route.is_api else {}

        answer = world.client(role).post(world.url(route), sent, **kind)

        # Promoting the champion again is refused for what it is, not for its body.
        assert answer.status_code in {200, 201, 302, 409}, (name, answer.content)


def subclasses(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] in {"annotate", "training", "models_registry", "pairloop"}


@pytest.mark.parametrize(
    "base", [serializers.ModelSerializer, forms.ModelForm, FilterSet], ids=lambda base: base.__name__
)  # fmt: skip
def test_fields_are_listed_one_by_one(base: type) -> None:
    routes()

    for kind in filter(is_ours, subclasses(base)):
        meta = kind.Meta  # type: ignore[attr-defined]
        assert isinstance(meta.fields, list | tuple), kind
        assert getattr(meta, "exclude", None) is None, kind
