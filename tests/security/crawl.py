"""Every address in the URLconf, filled in with what exists: a new page is found without being listed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from django.urls import URLPattern, URLResolver, get_resolver

#: What stands where a pattern wants something; by the name in the pattern, and else by its converter.
BY_NAME = {
    "number": "1",
    "slug": "demo",
    "name": "champion",
    "rest": "nowhere/at/all",
    "url": "nowhere",
}
BY_CONVERTER = {"int": "1", "str": "1", "slug": "demo", "path": "1", "uuid": str(uuid.UUID(int=1))}
PLACE = re.compile(r"<(?:(\w+):)?(\w+)>")


@dataclass(frozen=True, slots=True)
class Address:
    """One route, and an example of it."""

    route: str
    path: str


def addresses(values: dict[str, str] | None = None) -> list[Address]:
    """Return an example of every route; `values` stand for names in patterns, ahead of what is above."""
    by_name = BY_NAME | (values or {})
    return [
        Address(route, f"/{_filled(route, by_name)}")
        for route in _routes(get_resolver().url_patterns, "")
    ]


def _routes(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[str]:
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern.url_patterns, route)
        else:
            yield route


def _filled(route: str, by_name: dict[str, str]) -> str:
    """Return the route with its places filled; the admin's regular expressions lose their anchors."""

    def value(place: re.Match[str]) -> str:
        return by_name.get(place[2]) or BY_CONVERTER[place[1] or "str"]

    # What a regular expression captures, first: it contains angle brackets, too.
    plain = re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda found: by_name.get(found[1], "1"), route)
    return PLACE.sub(value, plain).replace("^", "").replace("$", "").replace("\\Z", "")
