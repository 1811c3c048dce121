"""S17: only digests of tokens are stored; revoked and expired ones end at once; read-only ones do not write."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.serializers import serialize
from django.db import connection
from django.test import Client
from django.utils import timezone

from pairloop.accounts import actions
from pairloop.accounts.models import Token
from tests.factories import UserFactory
from tests.security.routes import ANYTHING, Route, routes
from tests.security.world import World

pytestmark = pytest.mark.django_db
API = [route for route in routes() if route.api_class is not None]


def token_of(user: User, **others: Any) -> tuple[Token, str]:
    wishes = {"name": "script", "days": 1, "is_read_only": False, "now": timezone.now()} | others
    return actions.token_create(user=user, **wishes)


def ask(secret: str, method: str = "get", url: str = "/api/v1/models/", **sent: Any) -> Any:
    # No session and no CSRF token: the token is all there is.
    client = Client(enforce_csrf_checks=True, headers={"Authorization": f"Token {secret}"})
    return getattr(client, method)(url, **sent)


def test_lets_in_its_user(world: World) -> None:
    _, secret = token_of(world.users["member"])

    answer = ask(secret)

    assert [model["slug"] for model in answer.json()["results"]] == [world.model.slug]


def test_writes_without_a_csrf_token(world: World) -> None:
    _, secret = token_of(world.users["member"])

    answer = ask(secret, "post", f"/api/v1/models/{world.model.slug}/assignments/")

    assert answer.status_code == 201


def test_is_nowhere_in_the_database(world: World) -> None:
    token, secret = token_of(world.users["member"])
    dump = serialize("json", Token.objects.all())
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(t)::text FROM accounts_token t")
        dump += "".join(row for (row,) in cursor.fetchall())

    assert token.token_key in dump
    assert secret not in dump
    assert secret[len(token.token_key) :] not in dump
    assert len(secret) >= 64


def test_ends_when_it_is_revoked(world: World) -> None:
    token, secret = token_of(world.users["member"])
    assert ask(secret).status_code == 200

    world.client("member").post(f"/account/tokens/{token.token_key}/revoke/")

    answer = ask(secret)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_unknown")


def test_ends_when_it_expires(world: World) -> None:
    _, secret = token_of(world.users["member"], now=timezone.now() - timedelta(days=1, seconds=1))

    answer = ask(secret)

    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
    assert answer.headers["WWW-Authenticate"] == "Token"


def test_ends_with_its_user(world: World) -> None:
    _, secret = token_of(world.users["member"])
    User.objects.filter(pk=world.users["member"].pk).update(is_active=False)

    answer = ask(secret)

    assert (answer.status_code, answer.json()["code"]) == (401, "user_inactive")


@pytest.mark.parametrize(
    "secret", ["", "x", "pl_" + "0" * 64, "a b", "\u00ff", "pl_\x00", "x" * 5000]
)
def test_nonsense_is_nobody(world: World, secret: str) -> None:
    answer = ask(secret)

    assert answer.status_code == 401
    assert set(answer.json()) == {"detail", "code"}


def test_counts_even_with_a_session_beside_it(world: World) -> None:
    client = world.client("staff", headers={"Authorization": "Token pl_nonsense"})

    assert client.get("/api/v1/models/").status_code == 401


@pytest.mark.parametrize("route", API, ids=str)
def test_read_only_does_not_write(route: Route) -> None:
    for is_staff in (False, True):
        _, secret = token_of(UserFactory.create(is_staff=is_staff), is_read_only=True)
        for method in ("post", "put", "patch", "delete"):
            answer = ask(secret, method, route.url(ANYTHING))

            assert (answer.status_code, answer.json()["code"]) == (403, "token_read_only"), method


def test_read_only_reads(world: World) -> None:
    _, secret = token_of(world.users["staff"], is_read_only=True)

    assert ask(secret, url=f"/api/v1/models/{world.model.slug}/rounds/").status_code == 200


def test_does_not_make_one_that_outlives_it(world: World) -> None:
    token, secret = token_of(world.users["member"])

    made = ask(
        secret, "post", "/api/v1/tokens/", data={"name": "next", "days": 365},
        content_type="application/json",
    )  # fmt: skip

    assert made.status_code == 201
    assert Token.objects.get(name="next").expiry == token.expiry
    assert ask(made.json()["token"]).status_code == 200


def test_of_somebody_else_is_neither_listed_nor_revoked(world: World) -> None:
    token, secret = token_of(world.users["staff"])
    client = world.client("member")

    pages = [client.get("/account/"), client.get("/api/v1/tokens/")]
    client.post(f"/account/tokens/{token.token_key}/revoke/")
    client.delete(f"/api/v1/tokens/{token.token_key}/")

    assert [page for page in pages if token.token_key in page.content.decode()] == []
    assert ask(secret).status_code == 200
