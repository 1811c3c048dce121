"""What Django loads as the backend of `pairloop.lib.database`."""

from __future__ import annotations

import select

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that is known to be dead without a statement, where the server is on this machine."""

    def is_usable(self) -> bool:
        """Return whether the connection still stands; asked once for each request.

        Between requests a server says nothing. A unix socket that can be read hence has its end in it: the server
        stopped, or was killed. A network may lose an end in silence, so over one the server itself is asked.
        """
        if not str(self.settings_dict["HOST"]).startswith("/") or self.connection is None:
            return super().is_usable()
        if self.connection.closed:
            # psycopg has noticed it before us, and then there is no socket to ask about.
            return False
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0)
