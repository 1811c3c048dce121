from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pairloop.accounts import actions
from pairloop.accounts.models import RequestCount, Token, WrongPasswords
from tests import factories
from tests.rules import Breach, refused_by, rules_of

pytestmark = pytest.mark.django_db
SECRET = re.compile(r"pl_[0-9a-f]{64}")


@pytest.fixture
def user() -> User:
    return factories.UserFactory.create(username="ada")


@pytest.fixture
def caller(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def token_of(user: User, **others: Any) -> tuple[Token, str]:
    wishes = {"name": "script", "days": 30, "is_read_only": False, "now": timezone.now()} | others
    return actions.token_create(user=user, **wishes)


class TestAccount:
    def make(self, client: Client, **others: str) -> Any:
        return client.post("/account/", {"name": "laptop", "days": "30"} | others)

    def test_says_why_it_is_empty(self, caller: Client) -> None:
        assert "You have none: make one as soon as" in caller.get("/account/").content.decode()

    def test_is_reached_from_the_name_at_the_top(self, caller: Client) -> None:
        assert 'href="/account/">ada</a>' in caller.get("/").content.decode()

    def test_shows_a_new_token_once(self, caller: Client, user: User) -> None:
        answer = self.make(caller)

        page = answer.content.decode()
        (secret,) = set(SECRET.findall(page))
        token = Token.objects.get()
        assert answer.status_code == 201
        assert "no-store" in answer.headers["Cache-Control"]
        assert (token.user, token.name, token.is_read_only) == (user, "laptop", False)
        assert token.expiry - token.created < timedelta(days=30, seconds=5)
        again = caller.get("/account/").content.decode()
        assert secret not in again
        assert token.token_key in again

    def test_makes_one_that_only_reads(self, caller: Client) -> None:
        self.make(caller, is_read_only="on")

        assert Token.objects.get().is_read_only

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"name": ""}, "Give it a name"),
            ({"days": "0"}, "greater than or equal to 1"),
            ({"days": "366"}, "less than or equal to 365"),
            ({"days": "soon"}, "Enter a whole number"),
            ({"name": "x" * 51}, "at most 50"),
        ],
    )
    def test_keeps_what_was_typed(self, caller: Client, wrong: dict[str, str], says: str) -> None:
        typed = {"name": "laptop", "days": "30"} | wrong

        answer = self.make(caller, **typed)

        page = answer.content.decode()
        assert answer.status_code == 422
        assert says in page
        assert [value for value in typed.values() if value and f'value="{value}"' not in page] == []
        assert not Token.objects.exists()

    def test_makes_one_only_however_often_it_is_sent(self, caller: Client) -> None:
        self.make(caller)

        answer = self.make(caller)

        assert answer.status_code == 409
        assert "You have a token of this name already" in answer.content.decode()
        assert Token.objects.count() == 1

    def test_revokes(self, caller: Client, user: User) -> None:
        token, _ = token_of(user)

        for says in ("is revoked", "it may be revoked already"):
            answer = caller.post(f"/account/tokens/{token.token_key}/revoke/", follow=True)
            assert says in answer.content.decode()
        assert not Token.objects.exists()
        # A login in between comes back with GET.
        assert caller.get("/account/tokens/x/revoke/").headers["Location"] == "/account/"

    def test_marks_what_expired(self, caller: Client, user: User) -> None:
        token_of(user, now=timezone.now() - timedelta(days=31))

        assert "expired</span>" in caller.get("/account/").content.decode()

    def test_lets_no_name_write_html(self, caller: Client) -> None:
        page = self.make(caller, name="<script>x</script>").content.decode()

        assert "<script>x" not in page
        assert "&lt;script&gt;x" in page


class TestApi:
    def test_makes_lists_and_revokes(self, caller: Client) -> None:
        made = caller.post("/api/v1/tokens/", {"name": "x", "days": 2}, "application/json")

        assert made.status_code == 201
        told = made.json()
        assert SECRET.fullmatch(told["token"])
        (listed,) = caller.get("/api/v1/tokens/").json()["results"]
        assert listed == {key: value for key, value in told.items() if key != "token"}
        for status in (204, 404):
            assert caller.delete(f"/api/v1/tokens/{told['key']}/").status_code == status

    @pytest.mark.parametrize(
        "wrong",
        [{"name": ""}, {"name": "x\x00"}, {"days": 0}, {"days": 366}, {"is_read_only": "x"}],
    )
    def test_refuses_what_makes_no_sense(self, caller: Client, wrong: dict[str, object]) -> None:
        answer = caller.post("/api/v1/tokens/", {"name": "x"} | wrong, "application/json")

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")

    def test_refuses_the_same_name_twice(self, caller: Client) -> None:
        caller.post("/api/v1/tokens/", {"name": "x"}, "application/json")

        answer = caller.post("/api/v1/tokens/", {"name": "x"}, "application/json")

        assert (answer.status_code, answer.json()["code"]) == (409, "token_name_taken")


class TestTokenUse:
    def use(self, secret: str) -> None:
        client = Client(headers={"Authorization": f"Token {secret}"})
        assert client.get("/api/v1/models/").status_code == 200

    def test_is_known_to_the_hour(self, user: User) -> None:
        token, secret = token_of(user)
        self.use(secret)
        token.refresh_from_db()
        first = token.last_used_at
        self.use(secret)
        token.refresh_from_db()
        assert first is not None
        assert token.last_used_at == first

        Token.objects.update(last_used_at=first - timedelta(minutes=61))

        self.use(secret)
        token.refresh_from_db()
        assert token.last_used_at > first

    def test_costs_no_more_than_two_statements(self, user: User) -> None:
        _, secret = token_of(user)
        self.use(secret)

        with CaptureQueriesContext(connection, ) as queries:  # fmt: skip
            self.use(secret)

        sent = [query["sql"] for query in queries]
        assert len([sql for sql in sent if "accounts_" in sql]) == 2
        # The rest is the list itself: count and page.
        assert len(sent) <= 4

    def test_a_session_costs_one_statement_more(self, caller: Client) -> None:
        caller.get("/api/v1/models/")

        with CaptureQueriesContext(connection) as queries:
            caller.get("/api/v1/models/")

        assert len([query for query in queries if "accounts_requestcount" in query["sql"]]) == 1


class TestPerMinute:
    def ask(self, client: Client) -> Any:
        return client.get("/api/v1/tokens/")

    def test_refuses_what_comes_above_the_limit(self, caller: Client, settings: Any) -> None:
        settings.API_PER_MINUTE = 3
        for _ in range(3):
            # Whenever a minute begins, the counting does, too.
            RequestCount.objects.update(minute=timezone.now().replace(second=0, microsecond=0))
            assert self.ask(caller).status_code == 200

        answer = self.ask(caller)

        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60

    def test_begins_anew_with_the_minute(self, caller: Client, settings: Any) -> None:
        settings.API_PER_MINUTE = 1
        self.ask(caller)
        RequestCount.objects.update(minute=timezone.now() - timedelta(minutes=1), requests=99)

        assert self.ask(caller).status_code == 200
        assert RequestCount.objects.get().requests == 1

    def test_counts_sessions_and_tokens_of_a_user_together(
        self, caller: Client, user: User, settings: Any
    ) -> None:
        settings.API_PER_MINUTE = 1
        _, secret = token_of(user)
        token = Client(headers={"Authorization": f"Token {secret}"})

        self.ask(caller)

        # The second one, should a minute have begun in between.
        assert 429 in {self.ask(token).status_code, self.ask(token).status_code}

    def test_leaves_others_alone(self, caller: Client, settings: Any) -> None:
        settings.API_PER_MINUTE = 1
        self.ask(caller), self.ask(caller)
        other = Client()
        other.force_login(factories.UserFactory.create())

        assert self.ask(other).status_code == 200

    def test_is_off_at_zero(self, caller: Client, settings: Any) -> None:
        settings.API_PER_MINUTE = 0

        assert {self.ask(caller).status_code for _ in range(3)} == {200}
        assert not RequestCount.objects.exists()

    def test_keeps_its_counts_out_of_the_write_ahead_log(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT relpersistence FROM pg_class WHERE relname = 'accounts_requestcount'"
            )
            assert cursor.fetchone() == ("u",)

    @pytest.mark.django_db(transaction=True)
    def test_counts_every_one_of_many_at_once(self) -> None:
        user = factories.UserFactory.create()

        def count(_number: int) -> int:
            try:
                return actions.request_count(user)[0]
            finally:
                connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            counts = sorted(pool.map(count, range(40)))

        # A minute may have begun in between; then it counted from 1 again.
        begun = counts.count(1)
        assert begun in {1, 2}
        assert begun == 2 or counts == list(range(1, 41))


class TestCommands:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command(*arguments, stdout=out, stderr=StringIO())
        return out.getvalue()

    def test_make_list_and_revoke(self, user: User) -> None:
        secret = self.run(
            "token_create", "ada", "--name", "ci", "--days", "7", "--read-only"
        ).strip()

        assert SECRET.fullmatch(secret)
        token = Token.objects.get()
        listed = self.run("token_list")
        assert "ada  ci  reads  until" in listed
        assert "never used" in listed
        assert secret not in listed
        assert self.run("token_list", "bob") == ""

        self.run("token_revoke", "ada", token.token_key)

        assert not Token.objects.exists()

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["token_create", "bob", "--name", "x"], "no active user bob"),
            (["token_create", "ada", "--name", " "], "--name"),
            (["token_create", "ada", "--name", "x", "--days", "0"], "--days"),
            (["token_create", "ada", "--name", "taken"], "already"),
            (["token_revoke", "ada", "pl_x"], "see token_list"),
            (["token_revoke", "bob", "pl_x"], "see token_list"),
        ],
    )
    def test_say_what_is_wrong(self, user: User, arguments: list[str], says: str) -> None:
        token_of(user, name="taken")

        with pytest.raises(CommandError, match=says):
            self.run(*arguments)


def token(**fields: object) -> None:
    made, _ = token_of(factories.UserFactory.create())
    Token.objects.filter(pk=made.pk).update(**fields)


def token_twice(same: str) -> None:
    one, _ = token_of(factories.UserFactory.create())
    other, _ = token_of(one.user, name="other")
    Token.objects.filter(pk=other.pk).update(**{same: getattr(one, same)})


def counted_twice() -> None:
    for _ in range(2):
        WrongPasswords.objects.create(name="x", address="", tries=1, expires_at=timezone.now())


BREACHES: list[Breach] = [
    ("token_name_once_per_user", lambda: token_twice("name")),
    ("token_key_once", lambda: token_twice("token_key")),
    ("token_expires", lambda: token(expiry=None)),
    ("token_has_name", lambda: token(name="")),
    ("wrong_passwords_counted_once", counted_twice),
]


class TestRules:
    @pytest.mark.parametrize(("rule", "breach"), BREACHES, ids=[rule for rule, _ in BREACHES])
    def test_refuse(self, rule: str, breach: Callable[[], object]) -> None:
        with refused_by(rule):
            breach()

    def test_are_all_tried(self) -> None:
        # Positive counts come with the field, not from us.
        assert {rule for rule in rules_of("accounts") if not rule.endswith("_check")} == {
            rule for rule, _ in BREACHES
        }
