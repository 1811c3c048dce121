"""Template filters that every page has, without a load."""

from __future__ import annotations

from django import template

from pairloop.lib import markdown

register = template.Library()

register.filter("markdown", markdown.render)


@register.filter
def wait(seconds: int) -> str:
    """Say how long something will take, no more precisely than anybody knows."""
    if seconds <= 5:
        return "any moment now"
    if seconds <= 40:
        return "about half a minute"
    if seconds <= 90:
        return "about a minute"
    return f"about {round(seconds / 60)} minutes"
