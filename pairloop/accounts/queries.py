"""What pages, commands and the REST API read about tokens."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db.models import QuerySet
from knox.crypto import hash_token

from pairloop.accounts.models import Token


def token_with_secret(secret: str) -> Token | None:
    """Return the token with this secret and its user, also when either is no longer good. One query."""
    return tokens().filter(digest=hash_token(secret)).first()


def tokens_of(user: User) -> QuerySet[Token]:
    """Select a user's tokens, the newest first."""
    return tokens().filter(user=user)


def tokens() -> QuerySet[Token]:
    """Select everybody's tokens, the newest first."""
    found: QuerySet[Token] = Token.objects.select_related("user").order_by("-created", "token_key")
    return found
