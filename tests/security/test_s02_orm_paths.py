"""S02: no path through the ORM comes from a client."""

from __future__ import annotations

import random
from itertools import product

import pytest

from pairloop.lib.api import ListView
from tests.security.routes import Route, routes
from tests.security.world import World

READABLE = [route for route in routes() if route.api_class is not None and "get" in route.methods]
LISTS = [route for route in READABLE if issubclass(route.api_class, ListView)]
RELATIONS = [
    "user", "labeler", "assignment__labeler", "started_by", "moved_by", "model", "model__memberships__user",
    "memberships__user", "pair__prompt__model", "auth_token_set", "versions__model", "parent__model", "x",
]  # fmt: skip
FIELDS = [
    "password__startswith", "password__regex", "email__icontains", "is_superuser", "digest__startswith",
    "pk__in", "id__gte", "text__contains", "sha256__startswith", "username", "last_login__isnull",
]  # fmt: skip
KEYS = [
    f"{relation}__{field}"
    for relation, field in random.Random(2).sample(list(product(RELATIONS, FIELDS)), 50)
]


def test_finds_the_lists() -> None:
    assert {"api-models", "api-rounds", "api-versions", "api-prompts"} <= {r.name for r in LISTS}


@pytest.mark.django_db
@pytest.mark.parametrize("route", READABLE, ids=str)
def test_a_path_as_name_changes_nothing(world: World, route: Route) -> None:
    client = world.client("staff")
    url = world.url(route)
    before = client.get(url)
    said = before.getvalue()

    # What is no list is slower to make.
    for key in KEYS if route in LISTS else KEYS[:5]:
        answer = client.get(url, {key: "a"})
        if route in LISTS or answer.status_code == 400:
            assert (answer.status_code, answer.json()["code"]) == (400, "unknown_filter"), key
        else:
            assert (answer.status_code, answer.getvalue()) == (before.status_code, said), key


@pytest.mark.django_db
@pytest.mark.parametrize("route", LISTS, ids=str)
def test_a_path_as_order_is_refused(world: World, route: Route) -> None:
    for order in (
        "user__password",
        "-labeler__password",
        "model",
        "?",
        "pk",
        "number; DROP",
        "\x00",
    ):
        answer = world.client("staff").get(world.url(route), {"ordering": order})

        assert answer.status_code == 400, order
        assert answer.json()["code"] in {"invalid", "unknown_filter"}


@pytest.mark.django_db
@pytest.mark.parametrize("route", LISTS, ids=str)
def test_names_what_is_offered(world: World, route: Route) -> None:
    said = world.client("staff").get(world.url(route), {"nonsense": "1"}).json()["detail"]

    assert "'nonsense'" in said
    assert "page_size" in said


@pytest.mark.parametrize("route", LISTS, ids=str)
def test_offers_no_path(route: Route) -> None:
    filterset = route.api_class.filterset_class

    assert filterset is None or [name for name in filterset.base_filters if "__" in name] == []


@pytest.mark.django_db
@pytest.mark.parametrize("route", LISTS, ids=str)
def test_a_page_has_bounds(world: World, route: Route) -> None:
    for size in ("0", "201", "-1", "x", "", "1e2", "²", "9" * 400):
        answer = world.client("staff").get(world.url(route), {"page_size": size})

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid"), size
