"""How many requests a user may send to the REST API, over all processes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from pairloop.accounts import actions

if TYPE_CHECKING:
    # It looks for the class below while it is imported.
    from rest_framework.views import APIView


class PerMinute(BaseThrottle):
    """Refuses what comes above the setting, until the minute is over."""

    _seconds = 0

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Count it, and say whether it was one too many. Anonymous ones were refused before."""
        if not settings.API_PER_MINUTE:
            return True
        requests, self._seconds = actions.request_count(request.user)  # type: ignore[arg-type]
        return requests <= settings.API_PER_MINUTE

    def wait(self) -> float:
        """Return the seconds until the next minute."""
        return self._seconds
