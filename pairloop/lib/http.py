"""What every view shares: the request's type, partial rendering, roles."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers
from django_htmx.middleware import HtmxDetails


class Request(HttpRequest):
    """A request of somebody who is logged in, with htmx's details."""

    user: User
    htmx: HtmxDetails


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
