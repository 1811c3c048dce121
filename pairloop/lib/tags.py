"""Template filters and tags that every page has, without a load."""

from __future__ import annotations

from django import template
from django.urls import reverse

from pairloop.lib import markdown

register = template.Library()

register.filter("markdown", markdown.render)


@register.filter
def share(value: float) -> str:
    """Write a share of one as whole percents."""
    return f"{value:.0%}"


@register.filter
def reward(value: float) -> str:
    """Write a reward with its sign."""
    return f"{value:+.2f}"


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


#: The pages of a model in the order of its navigation: name of the address -> what it is called.
MODEL_PAGES = {
    "judge": "Judge",
    "history": "History",
    "prompts": "Prompts",
    "triples": "Triples",
    "rounds": "Rounds",
    "versions": "Versions",
    "compare": "Compare",
    "playground": "Play",
    "quality": "Quality",
    "people": "People",
    "settings": "Settings",
}

#: Those of them that labelers have, too, and what staff finds on its settings page.
LABELER_PAGES = {"judge": "Judge", "history": "History", "guidelines": "Guidelines"}


@register.simple_tag
def model_pages(slug: str, *, is_staff: bool) -> list[tuple[str, str, str]]:
    """Return name, title and address of each page of a model that somebody may open."""
    pages = MODEL_PAGES if is_staff else LABELER_PAGES
    return [(name, title, reverse(name, args=[slug])) for name, title in pages.items()]


@register.filter
def duration(milliseconds: int) -> str:
    """Write a time: in seconds, minutes and seconds, or hours and minutes."""
    seconds = round(milliseconds / 1000)
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 1:
        return f"{seconds} s"
    if hours < 1:
        return f"{minutes} min {seconds % 60} s" if minutes < 10 else f"{minutes} min"
    return f"{hours} h {minutes % 60} min"
