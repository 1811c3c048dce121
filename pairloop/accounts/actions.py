"""What is written about tokens and counted by the brakes; the brakes go by the database's clock."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from knox.models import get_digest_token
from knox.settings import CONSTANTS

from pairloop.accounts.models import Token
from pairloop.lib.errors import Refused

#: Days that a token may be good for.
MOST_DAYS = 365
#: Wrong passwords in a row, under one name from one address, before the pause.
MOST_WRONG = 5
PAUSE_MINUTES = 15
#: How exactly a token's last use is known.
USE_STEP = timedelta(hours=1)

COUNT_REQUEST = """
    INSERT INTO accounts_requestcount AS counted (user_id, minute, requests)
    VALUES (%s, date_trunc('minute', statement_timestamp()), 1)
    ON CONFLICT (user_id) DO UPDATE SET
        requests = CASE WHEN counted.minute = excluded.minute THEN counted.requests + 1 ELSE 1 END,
        minute = excluded.minute
    RETURNING requests,
        ceil(extract(epoch FROM minute + interval '1 minute' - statement_timestamp()))::int
"""
# The pause begins with the last try that is allowed; those that are refused do not prolong it.
COUNT_LOGIN = """
    INSERT INTO accounts_wrongpasswords AS counted (name, address, tries, expires_at)
    VALUES (%(name)s, %(address)s, 1, statement_timestamp() + %(minutes)s * interval '1 minute')
    ON CONFLICT (name, address) DO UPDATE SET
        tries = CASE WHEN counted.expires_at <= statement_timestamp() THEN 1 ELSE counted.tries + 1 END,
        expires_at = CASE
            WHEN counted.expires_at <= statement_timestamp() OR counted.tries < %(most)s THEN excluded.expires_at
            ELSE counted.expires_at
        END
    RETURNING tries, ceil(extract(epoch FROM expires_at - statement_timestamp()))::int
"""


class TokenNameTaken(Refused):
    """You have a token of this name already. Take another name; if you never saw that token, revoke it."""

    code = "token_name_taken"


class TooManyLogins(Refused):
    """Too many wrong passwords."""

    code = "too_many_requests"

    def __init__(self, *, seconds: int) -> None:
        """Take the seconds that are left."""
        minutes = -(-seconds // 60)
        super().__init__(
            f"Too many wrong passwords. Wait {minutes} minute{'s' if minutes > 1 else ''}, then try again."
        )
        self.seconds = seconds


def token_create(
    *,
    user: User,
    name: str,
    days: int,
    is_read_only: bool,
    now: datetime,
    by: Token | None = None,
) -> tuple[Token, str]:
    """Make a token; return it with its secret, which nobody can read again.

    One made with another token, `by`, ends no later than that one.
    """
    digest, secret = get_digest_token()
    until = now + timedelta(days=days)
    token = Token(
        digest=digest,
        token_key=secret[: CONSTANTS.TOKEN_KEY_LENGTH],
        user=user,
        name=name,
        is_read_only=is_read_only,
        expiry=min(until, by.expiry) if by else until,
    )
    try:
        with transaction.atomic():
            token.save(force_insert=True)
    except IntegrityError as error:
        raise TokenNameTaken from error
    return token, secret


def token_revoke(*, user: User, key: str) -> None:
    """End a user's token at once; raises Token.DoesNotExist when they have none that begins so."""
    deleted, _ = Token.objects.filter(user=user, token_key=key).delete()
    if not deleted:
        raise Token.DoesNotExist


def token_used(*, token: Token, now: datetime) -> None:
    """Note that a token was used, at most once an hour."""
    if token.last_used_at is None or now - token.last_used_at >= USE_STEP:
        Token.objects.filter(pk=token.pk).update(last_used_at=now)


def request_count(user: User) -> tuple[int, int]:
    """Count a request; return how many the user made in this minute, and the seconds it still lasts.

    One statement, whatever other processes count meanwhile.
    """
    with connection.cursor() as cursor:
        cursor.execute(COUNT_REQUEST, [user.pk])
        requests, seconds = cursor.fetchone()
    return requests, max(seconds, 1)


def login_try(*, name: str, address: str) -> None:
    """Count a login before its password is looked at, so that many at once are not more than five."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM accounts_wrongpasswords WHERE expires_at < statement_timestamp() - interval '1 day'"
        )
        cursor.execute(
            COUNT_LOGIN,
            {
                "name": _name(name),
                "address": address,
                "minutes": PAUSE_MINUTES,
                "most": MOST_WRONG,
            },
        )
        tries, seconds = cursor.fetchone()
    if tries > MOST_WRONG:
        raise TooManyLogins(seconds=max(seconds, 1))


def login_succeed(*, name: str, address: str) -> None:
    """Forget the wrong passwords before the right one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM accounts_wrongpasswords WHERE name = %s AND address = %s",
            [_name(name), address],
        )


def _name(typed: str) -> str:
    return typed.casefold()[:150]
