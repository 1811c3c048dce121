"""What every view shares: the request's type, partial rendering, roles."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers
from django_htmx.middleware import HtmxDetails


class Request(HttpRequest):
    """A request of somebody who is logged in, with htmx's details."""

    user: User
    htmx: HtmxDetails


def client_address(request: HttpRequest) -> str:
    """Return who asks. Behind a proxy (PAIRLOOP_HTTPS) it is the last address that the proxy wrote down.

    What stands before that in the header, the client may have written itself.
    """
    direct = str(request.META.get("REMOTE_ADDR", ""))
    if not settings.HTTPS:
        return direct
    last = str(request.META.get("HTTP_X_FORWARDED_FOR", "")).rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return direct


def origin() -> str:
    """Return where these settings say that pages are reached, as in http://127.0.0.1:8000."""
    scheme = "https" if settings.HTTPS else "http"
    return str(next(iter(settings.CSRF_TRUSTED_ORIGINS), f"{scheme}://{settings.BIND}"))


def render_part(
    request: HttpRequest, template: str, part: str, context: dict[str, Any], *, status: int = 200
) -> HttpResponse:
    """Render a page, or only its named part when htmx asks; the same URL serves both."""
    wants_part = getattr(request, "htmx", False)
    name = f"{template}#{part}" if wants_part else template
    response = render(request, name, context, status=status)
    # Without this, the browser's Back button may show a naked part from its cache.
    patch_vary_headers(response, ["HX-Request"])
    return response
