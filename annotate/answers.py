"""What a labeler reads of an assignment, as HTML that is safe to show: never anything about versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from django.utils.html import format_html
from django.utils.safestring import SafeString

from annotate.models import Assignment
from pairloop.lib import differences, markdown, unseen

Shown = Literal["text", "diff", "raw"]
#: Above texts of which not the differing words are marked.
COARSE, UNLIKE = (
    format_html('<p class="hint">{}</p>', sentence)
    for sentence in (
        "These texts are too long to compare word by word; whole lines are marked.",
        "These texts have next to no words in common, so nothing is marked.",
    )
)


@dataclass(frozen=True, slots=True)
class Text:
    """One text in its own wrapper; in a template, `{{ text }}` is the same as `{{ text.html }}`."""

    #: "system", "user" or "assistant".
    role: str
    html: SafeString

    def __html__(self) -> SafeString:
        """Return the HTML, as templates ask for it."""
        return self.html

    __str__ = __html__


@dataclass(frozen=True, slots=True)
class Panes:
    """Everything to read, left and right as this labeler sees them."""

    #: The last message: what is answered.
    prompt: Text
    #: The messages before it, the system message first.
    turns: tuple[Text, ...]
    left: Text
    right: Text
    #: Whether both panes have an element with `data-first-difference` to jump to.
    first_difference: bool


def panes(assignment: Assignment, shown: Shown) -> Panes:
    """Return what to read. No queries when pair, prompt, first and second are loaded."""
    *before, last = [
        Text(str(message["role"]), _shown(str(message["content"]), shown))
        for message in assignment.pair.prompt.messages
    ] or [Text("user", _shown("", shown))]
    left, right = assignment.left.text, assignment.right.text
    is_different = False
    if shown == "diff":
        compared = differences.compare(left, right)
        is_different = compared.first_difference
        left_html, right_html = (
            _in_diff(compared.left, compared),
            _in_diff(compared.right, compared),
        )
    else:
        left_html, right_html = _shown(left, shown), _shown(right, shown)
    return Panes(
        prompt=last,
        turns=tuple(before),
        left=Text("assistant", left_html),
        right=Text("assistant", right_html),
        first_difference=is_different,
    )


def _shown(text: str, shown: Shown) -> SafeString:
    if shown == "raw":
        return format_html('<div class="raw">{}</div>', unseen.show(text))
    return format_html('<div class="prose">{}</div>', markdown.render(text))


def _in_diff(marked: SafeString, compared: differences.Compared) -> SafeString:
    note = UNLIKE if compared.is_unlike else COARSE if compared.is_coarse else ""
    return format_html('{}<div class="diff">{}</div>', note, marked)
