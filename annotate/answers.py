"""Thrown away at the merge: what a labeler reads of an assignment, with today's markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from django.utils.html import format_html
from django.utils.safestring import SafeString

from annotate.models import Assignment
from pairloop.lib import differences, markdown

Shown = Literal["text", "diff", "raw"]


@dataclass(frozen=True, slots=True)
class Text:
    role: str
    html: SafeString

    def __html__(self) -> SafeString:
        return self.html

    __str__ = __html__


@dataclass(frozen=True, slots=True)
class Panes:
    prompt: Text
    turns: tuple[Text, ...]
    left: Text
    right: Text
    first_difference: bool


def panes(assignment: Assignment, shown: Shown) -> Panes:
    *before, last = [Text(m["role"], _shown(m["content"], shown)) for m in assignment.pair.prompt.messages]
    left, right = assignment.left.text, assignment.right.text
    if shown == "diff":
        one, two = differences.mark(left, right)
        html = [format_html('<div class="prose is-raw" dir="auto">{}</div>', side) for side in (one, two)]
    else:
        html = [_shown(side, shown) for side in (left, right)]
    return Panes(last, tuple(before), Text("assistant", html[0]), Text("assistant", html[1]), False)


def _shown(text: str, shown: Shown) -> SafeString:
    if shown == "raw":
        return format_html('<div class="prose is-raw" dir="auto">{}</div>', text)
    return format_html('<div class="prose" dir="auto">{}</div>', markdown.render(text))
