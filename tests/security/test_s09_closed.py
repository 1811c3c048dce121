"""S09: the REST API is closed unless somebody is logged in."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.factories import UserFactory
from tests.security.matrix import MATRIX, PUBLIC
from tests.security.routes import ANYTHING, Route, routes

API = [route for route in routes() if route.api_class is not None]
PAGES = [
    route
    for route in routes()
    if not route.is_api and MATRIX[route.name] is not PUBLIC and route.name != "admin-login"
]


@pytest.mark.django_db
@pytest.mark.parametrize("route", API, ids=str)
def test_strangers_are_asked_who_they_are(route: Route) -> None:
    for method in ("get", "head", "options", "post", "put", "patch", "delete"):
        answer = getattr(Client(), method)(route.url(ANYTHING))

        assert answer.status_code == 401, method
        assert answer.headers["WWW-Authenticate"] == "Token"
        if method != "head":
            assert answer.json()["code"] == "not_authenticated"
            assert answer.json()["detail"]


@pytest.mark.django_db
@pytest.mark.parametrize("route", API, ids=str)
def test_a_session_needs_its_csrf_token(client: Client, route: Route) -> None:
    client.handler.enforce_csrf_checks = True
    client.force_login(UserFactory.create(is_staff=True))

    answer = client.post(route.url(ANYTHING))

    assert answer.status_code == 403
    assert set(answer.json()) == {"detail", "code"}


@pytest.mark.django_db
@pytest.mark.parametrize("route", PAGES, ids=str)
def test_pages_send_strangers_to_the_login(route: Route) -> None:
    for method in ("get", "post"):
        answer = getattr(Client(), method)(route.url(ANYTHING))

        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/login/?next=")


@pytest.mark.parametrize("route", API, ids=str)
def test_every_view_keeps_the_closed_defaults(route: Route) -> None:
    view = route.api_class

    assert [cls.__name__ for cls in view.authentication_classes] == [
        "TokenAuthentication",
        "SessionAuthentication",
    ]
    assert [cls.__name__ for cls in view.throttle_classes] == ["PerMinute"]
    assert {cls.__name__ for cls in view.permission_classes} <= {"IsAdminUser", "IsAuthenticated"}
    assert view.permission_classes
