"""Django's accounts, read by a statement that is planned once: every request waits for it."""

from __future__ import annotations

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User

from pairloop.lib.statements import Columns, Statement

_USER = Columns("person", User)
READ = Statement(
    "user_read",
    f"SELECT {_USER.sql} FROM auth_user person WHERE person.id = %(id)s::bigint",  # noqa: S608 columns of ours
)


class Accounts(ModelBackend):
    """Names and passwords as Django keeps them."""

    def get_user(self, user_id: int) -> User | None:
        """Return whoever is logged in, unless their account is no longer active."""
        row = READ.row({"id": user_id})
        user: User | None = _USER.instance(row) if row else None
        return user if user and self.user_can_authenticate(user) else None
