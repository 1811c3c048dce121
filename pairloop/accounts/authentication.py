"""Who calls the REST API by token."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from pairloop.accounts import actions, queries
from pairloop.accounts.models import Token


class TokenUnknown(AuthenticationFailed):
    """There is no such token, or there is none any more."""

    default_code = "token_unknown"
    default_detail = "There is no such token: it may have been revoked."


class TokenExpired(AuthenticationFailed):
    """The token's time is over."""

    default_code = "token_expired"
    default_detail = "This token has expired. Make another one on your account's page."


class UserInactive(AuthenticationFailed):
    """The token's user may not log in."""

    default_code = "user_inactive"
    default_detail = "The account of this token has been deactivated."


class TokenIsReadOnly(PermissionDenied):
    """The token may look but not touch."""

    default_code = "token_read_only"
    default_detail = "This token may only read. Use one that may write."


class TokenAuthentication(KnoxAuthentication):  # type: ignore[misc]
    """`Authorization: Token …`: one query, and a write an hour."""

    def authenticate(self, request: Request) -> tuple[User, Token] | None:
        """Return user and token of a request that carries one."""
        found: tuple[User, Token] | None = super().authenticate(request)
        if found and found[1].is_read_only and request.method not in SAFE_METHODS:
            raise TokenIsReadOnly
        return found

    def authenticate_credentials(self, token: bytes) -> tuple[User, Token]:
        """Return who stands behind a secret."""
        found = queries.token_with_secret(token.decode(errors="replace"))
        now = timezone.now()
        if found is None:
            raise TokenUnknown
        if found.expiry <= now:
            raise TokenExpired
        if not found.user.is_active:
            raise UserInactive
        actions.token_used(token=found, now=now)
        return found.user, found
