"""One line in the log for each request."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

import structlog
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponseBase

from pairloop.lib.http import client_address

logger = logging.getLogger("pairloop.request")

#: What the supervisor asks every few seconds.
UNTOLD = {"healthz"}


class RequestLog:
    """Middleware: one line for each request, and its id on every line that was written meanwhile."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        """Take what comes behind."""
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, and say which route it was, never with what."""
        began = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=uuid.uuid4().hex):
            response = self._get_response(request)
            route = _route(request)
            if route not in UNTOLD:
                fields = {
                    "method": request.method if (request.method or "").isalpha() else "?",
                    "route": route,
                    "status": response.status_code,
                    "ms": round((time.perf_counter() - began) * 1000),
                    "user_id": _user_id(request),
                    "client": client_address(request),
                }
                logger.info("request", extra=fields)
        return response


def _route(request: HttpRequest) -> str:
    """Return the pattern's name; what matches no pattern is anybody's text."""
    match = request.resolver_match
    return (match.view_name or match.route) if match else "unknown"


def _user_id(request: HttpRequest) -> int | None:
    """Return who asked, when that was found out anyway; nobody is looked up for a line in a log."""
    # By token, it is set on the request after the session was found to be nobody's.
    for user in (request.__dict__.get("user"), getattr(request, "_cached_user", None)):
        if type(user) is User:
            return user.pk
    return None
