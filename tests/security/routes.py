"""Every address of the URLconf, found by walking it, so that none can be forgotten."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.urls import URLPattern, URLResolver, get_resolver, reverse
from rest_framework.views import APIView

UNSAFE = ("post", "put", "patch", "delete")
#: Something for every part of an address. Whoever adds a route with another part adds it here, and in world.py
#: what it is called there.
ANYTHING: dict[str, Any] = {
    "slug": "nothing",
    "number": 1,
    "uuid": UUID(int=1),
    "name": "champion",
    "key": "pl_nothing",
    "rest": "v1/nowhere/",
    "pk": 0,
    "change": "add",
    "uidb64": "MA",
    "token": "nothing",
}


@dataclass(frozen=True)
class Route:
    """One pattern."""

    name: str
    path: str
    kwargs: frozenset[str]
    view: Callable[..., Any]

    @property
    def api_class(self) -> type[APIView] | None:
        """The class of a REST view."""
        return getattr(self.view, "cls", None)

    @property
    def is_api(self) -> bool:
        """Whether it answers in JSON."""
        return self.name.startswith("api-") and self.name != "api-docs"

    @property
    def methods(self) -> list[str]:
        """The methods that it may answer; pages say 405 to those that they do not."""
        if self.api_class is None:
            return ["get", "post"]
        return [name for name in ("get", *UNSAFE) if hasattr(self.api_class, name)]

    def url(self, values: Mapping[str, Any]) -> str:
        """Return the address with what belongs into it."""
        return reverse(self.name, kwargs={name: values[name] for name in self.kwargs})

    @property
    def template(self) -> str:
        """The address as OpenAPI writes it."""
        return "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.path)

    def __str__(self) -> str:
        """Return the name, for pytest."""
        return self.name


def routes() -> list[Route]:
    """Return every route but those of Django's admin, which has its own rules and tests."""
    return [route for route in _walk(get_resolver().url_patterns, "") if not is_admins(route)]


def admin_routes() -> list[Route]:
    """Return the routes of Django's admin."""
    return [route for route in _walk(get_resolver().url_patterns, "") if is_admins(route)]


def is_admins(route: Route) -> bool:
    """Whether a route is inside Django's admin."""
    return route.path.startswith("admin/") and route.name != "admin-login"


def _walk(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[Route]:
    for pattern in patterns:
        path = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, path)
        else:
            yield Route(
                name=pattern.name or path,
                path=path,
                kwargs=frozenset(pattern.pattern.converters)
                | frozenset(pattern.pattern.regex.groupindex),
                view=inspect.unwrap(pattern.callback, stop=lambda view: hasattr(view, "cls")),
            )
