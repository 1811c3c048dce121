"""Django's sessions in the database, read by a statement that is planned once: every request waits for it."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends import db
from django.utils import timezone

from pairloop.lib.statements import Statement

READ = Statement(
    "session_read",
    """
    SELECT session_data FROM django_session
    WHERE session_key = %(key)s::varchar AND expire_date > %(now)s::timestamptz
    """,
)


class SessionStore(db.SessionStore):
    """A session as Django keeps it."""

    def load(self) -> dict[str, Any]:
        """Return what is in it; nothing once it ended, and then a new one gets a new key."""
        row = READ.row({"key": self.session_key, "now": timezone.now()})
        if row is None:
            self._session_key = None
            return {}
        read: dict[str, Any] = self.decode(row[0])
        return read
