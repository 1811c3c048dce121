"""S08: every request that changes something needs its token; cookies are closed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from tests.factories import PASSWORD, UserFactory
from tests.security.routes import ANYTHING, UNSAFE, Route, routes
from tests.security.world import World

#: Says 404 to everything, whoever asks.
ROUTES = [route for route in routes() if route.name != "api-missing"]
COOKIES = [
    f"{kind}_COOKIE_{what}"
    for kind in ("SESSION", "CSRF")
    for what in ("HTTPONLY", "SAMESITE", "SECURE")
]


@pytest.mark.django_db
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_without_its_token_nothing_changes(route: Route) -> None:
    for is_staff in (False, True):
        client = Client(enforce_csrf_checks=True)
        client.force_login(UserFactory.create(is_staff=is_staff))
        for method in UNSAFE:
            answer = getattr(client, method)(route.url(ANYTHING))

            assert answer.status_code == 403, (is_staff, method)


@pytest.mark.django_db
def test_with_its_token_it_does(world: World) -> None:
    client = world.client("member", enforce_csrf_checks=True)
    client.get("/account/")
    token = client.cookies["csrftoken"].value

    answer = client.post("/api/v1/tokens/", {"name": "x"}, "application/json", headers={"X-CSRFToken": token})  # fmt: skip

    assert answer.status_code == 201


@pytest.mark.django_db
def test_pages_send_it_with_htmx(world: World) -> None:
    page = world.client("staff").get("/account/").content.decode()

    assert '<body hx-headers=\'{"x-csrftoken":' in page


@pytest.mark.django_db
def test_cookies_are_closed(world: World) -> None:
    client = Client()
    client.get("/login/")
    client.post("/login/", {"username": world.users["member"].username, "password": PASSWORD})

    for name in (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME):
        assert client.cookies[name]["httponly"] is True
        assert client.cookies[name]["samesite"] == "Lax"


def test_cookies_need_tls_behind_a_proxy(tmp_path: Path) -> None:
    program = (
        "import django, json; django.setup(); from django.conf import settings;"
        f"print(json.dumps([getattr(settings, name) for name in {COOKIES!r}]))"
    )

    said = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PATH": "/usr/bin:/bin",
            "DJANGO_SETTINGS_MODULE": "pairloop.settings",
            "PAIRLOOP_VAR": str(tmp_path),
            "PAIRLOOP_HTTPS": "1",
        },
        cwd=settings.BASE_DIR,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert json.loads(said) == [True, "Lax", True, True, "Lax", True]
