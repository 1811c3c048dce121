"""S15: five wrong passwords, then a pause; whether there is such a user does not show."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.contrib.auth.models import User
from django.db import connections
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from pairloop.accounts.models import WrongPasswords
from tests.factories import PASSWORD, UserFactory


class CountingHasher(MD5PasswordHasher):
    """Counts how often a password is looked at."""

    looked = 0

    def encode(self, password: str, salt: str) -> str:
        """Hash and count."""
        CountingHasher.looked += 1
        return str(super().encode(password, salt))


@pytest.fixture
def looked(settings: Any) -> type[CountingHasher]:
    settings.PASSWORD_HASHERS = [f"{__name__}.CountingHasher"]
    return CountingHasher


@pytest.fixture
def user(db: None, looked: object) -> User:
    return UserFactory.create(username="ada")


def log_in(name: str, password: str, *, address: str = "10.0.0.1") -> HttpResponse:
    answer: HttpResponse = Client(REMOTE_ADDR=address).post(
        "/login/", {"username": name, "password": password}
    )
    return answer


def fail(name: str, *, times: int = 5, address: str = "10.0.0.1") -> list[HttpResponse]:
    return [log_in(name, "wrong", address=address) for _ in range(times)]


def said(answer: HttpResponse) -> str:
    page = re.sub(r'csrf\w+" value="\w+"|x-csrftoken": "\w+"', "", answer.content.decode())
    return page.replace("ada", "NAME").replace("eve", "NAME")


def test_five_wrong_ones_and_not_even_the_right_one_is_looked_at(
    user: User, looked: type[CountingHasher]
) -> None:
    assert {answer.status_code for answer in fail("ada")} == {200}
    before = looked.looked

    answer = log_in("ada", PASSWORD)

    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 15 * 60
    assert "Too many wrong passwords. Wait 15 minutes" in answer.content.decode()
    assert looked.looked == before


def test_four_wrong_ones_are_forgotten_after_the_right_one(user: User) -> None:
    for _ in range(3):
        fail("ada", times=4)
        assert log_in("ada", PASSWORD).status_code == 302


def test_the_name_counts_without_case(user: User) -> None:
    for name in ("ada", "Ada", "ADA", "aDa", "adA"):
        log_in(name, "wrong")

    assert log_in("ada", PASSWORD).status_code == 429


def test_others_and_other_addresses_may_go_on(user: User) -> None:
    UserFactory.create(username="bob")
    fail("ada")

    assert log_in("ada", PASSWORD, address="10.0.0.2").status_code == 302
    assert log_in("bob", PASSWORD).status_code == 302


def test_the_pause_ends_after_15_minutes_however_often_somebody_tried(user: User) -> None:
    fail("ada", times=5)
    until = WrongPasswords.objects.get().expires_at
    fail("ada", times=5)
    assert WrongPasswords.objects.get().expires_at == until
    assert timedelta(minutes=14) < until - timezone.now() <= timedelta(minutes=15)

    WrongPasswords.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    assert log_in("ada", PASSWORD).status_code == 302


def test_what_nobody_tried_for_a_day_is_deleted(user: User) -> None:
    fail("eve", times=1)
    WrongPasswords.objects.update(expires_at=timezone.now() - timedelta(days=2))

    fail("ada", times=1)

    assert [row.name for row in WrongPasswords.objects.all()] == ["ada"]


def test_a_user_that_is_not_there_looks_and_costs_the_same(
    user: User, looked: type[CountingHasher]
) -> None:
    costs, pages = [], []
    for name in ("ada", "eve"):
        before = looked.looked
        pages.append([(answer.status_code, said(answer)) for answer in fail(name, times=7)])
        costs.append(looked.looked - before)

    assert pages[0] == pages[1]
    assert costs == [5, 5]


def test_a_deactivated_user_looks_like_a_wrong_password(user: User) -> None:
    wrong = said(log_in("ada", "wrong"))
    User.objects.update(is_active=False)

    assert said(log_in("ada", PASSWORD)) == wrong


def test_the_administration_has_no_login_of_its_own(user: User) -> None:
    answer = Client().post("/admin/login/", {"username": "ada", "password": PASSWORD})

    assert answer.status_code == 302
    assert answer.headers["Location"] == "/login/?next=%2Fadmin%2F"


def test_what_a_stranger_says_about_their_address_does_not_count(user: User, settings: Any) -> None:
    for number in range(5):
        Client(REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": f"10.0.1.{number}"}).post(
            "/login/", {"username": "ada", "password": "wrong"}
        )
    assert log_in("ada", PASSWORD).status_code == 429

    # Behind a proxy of ours, the last one is what it saw.
    settings.HTTPS, settings.SECURE_SSL_REDIRECT = True, False
    forwarded = Client(REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": "10.0.0.1, 10.0.0.9"})
    answer = forwarded.post("/login/", {"username": "ada", "password": PASSWORD})
    assert answer.status_code == 302


@pytest.mark.django_db(transaction=True)
def test_many_at_once_are_not_more_than_five(looked: type[CountingHasher]) -> None:
    UserFactory.create(username="ada")
    before = looked.looked

    def attempt(_number: int) -> int:
        try:
            return log_in("ada", "wrong").status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(12) as pool:
        statuses = sorted(pool.map(attempt, range(24)))

    assert statuses == [200] * 5 + [429] * 19
    assert looked.looked - before == 5
