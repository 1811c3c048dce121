"""S10: route x role x foreign object. What somebody may not see is 404, not 403."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.http import HttpResponseBase
from django.urls import reverse

from tests.security.matrix import MATRIX, Answer
from tests.security.routes import Route, admin_routes, routes
from tests.security.world import ROLES, World

ROUTES = routes()


def answer_of(answer: HttpResponseBase) -> Answer | int:
    """Say which of the matrix's answers it is; the bare status for one that nobody should get."""
    status = answer.status_code
    if status == 401:
        return Answer.UNAUTHENTICATED
    if status == 404:
        return Answer.MISSING
    if status == 302 and answer.headers["Location"].startswith(reverse("login") + "?next="):
        return Answer.LOGIN
    return Answer.OK if status < 500 and status not in {403, 405} else status


def asked(world: World, route: Route, role: str, method: str, **others: Any) -> HttpResponseBase:
    """Ask, and undo what that changed."""
    sends_json = route.is_api and method != "get"
    body = {"data": {}, "content_type": "application/json"} if sends_json else {}
    with transaction.atomic():
        client = world.client(role, raise_request_exception=False)
        answer: HttpResponseBase = getattr(client, method)(world.url(route, **others), **body)
        transaction.set_rollback(True)
    return answer


def test_knows_every_route() -> None:
    known = {route.name for route in ROUTES}

    assert known - set(MATRIX) == set(), "add a line to tests/security/matrix.py"
    assert set(MATRIX) - known == set(), "these routes are gone"


@pytest.mark.django_db
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_answers_each_role_as_the_matrix_says(world: World, route: Route) -> None:
    wrong = {}
    for role in ROLES:
        for method in route.methods:
            answer = asked(world, route, role, method)
            if answer.status_code == 405 and route.api_class is None:
                continue
            found = answer_of(answer)
            if found != MATRIX[route.name][ROLES.index(role)]:
                wrong[role, method] = (found, answer.status_code)

    assert wrong == {}


@pytest.mark.django_db
@pytest.mark.parametrize("route", [r for r in ROUTES if "number" in r.kwargs], ids=str)
def test_does_not_find_the_numbers_of_another_model(world: World, route: Route) -> None:
    for method in route.methods:
        answer = asked(world, route, "staff", method, number=world.foreign.get(route.name, 2))

        assert answer.status_code in {404, 405}


@pytest.mark.django_db
@pytest.mark.parametrize("route", [r for r in ROUTES if "slug" in r.kwargs], ids=str)
def test_does_not_find_a_model_that_is_not_there(world: World, route: Route) -> None:
    for method in route.methods:
        answer = asked(world, route, "staff", method, slug="nothing")

        assert answer.status_code in {404, 405}


@pytest.mark.django_db
def test_ties_an_assignment_to_its_model(world: World) -> None:
    url = reverse("judgement", args=[world.other.slug, world.assignment.uuid])

    assert world.client("member").post(url, {"verdict": "left"}).status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize("role", ["anonymous", "member"])
def test_opens_the_administration_to_staff_only(world: World, role: str) -> None:
    client = world.client(role)
    opened = []
    for route in admin_routes():
        url = "/" + route.path.replace("<path:object_id>", "1").split("<")[0]
        answer = client.get(url)
        if answer.status_code == 200 or not str(answer.headers.get("Location", "/admin/login/")).startswith(
            ("/admin/", "/login/")
        ):  # fmt: skip
            opened.append(url)

    assert opened == []
