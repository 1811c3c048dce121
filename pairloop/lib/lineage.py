"""A tree of versions as SVG, drawn on the server: a row for each, the newest on top, a lane for each branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

ROW, LANE, EDGE = 62, 22, 22
#: Between the last lane and the words.
GAP = 4
#: About what a character of a label, a sentence and a name's badge takes; nobody measures text here.
LABEL_WIDTH, CAPTION_WIDTH, NAME_WIDTH = 9.5, 6.8, 7.4
#: No narrower, or a short history would be drawn in huge letters.
LEAST_WIDTH = 330


@dataclass(frozen=True, slots=True)
class Node:
    """One version in the tree."""

    #: Also its place in time: whoever comes later has a higher one.
    key: int
    parent: int | None
    label: str
    url: str
    #: How it came about, to be read beside the line that leads to it.
    caption: str
    names: tuple[str, ...] = ()
    #: Among the names, the one that stands out.
    main: str = ""
    #: Why it is not like the others, in words; empty for most.
    note: str = ""
    #: "whole", "waiting", "gone" or "broken".
    look: str = "whole"


@dataclass(frozen=True, slots=True)
class Placed:
    """A node and where it is drawn."""

    node: Node
    #: From the top.
    row: int
    lane: int

    @property
    def x(self) -> int:
        """The middle of its dot, from the left."""
        return EDGE + self.lane * LANE

    @property
    def y(self) -> int:
        """The middle of its dot, from the top."""
        return EDGE + self.row * ROW


def place(nodes: Sequence[Node]) -> list[Placed]:
    """Give every node a row, the highest key on top, and a lane that no line of another crosses a dot in.

    A node goes on in its parent's lane unless a sibling did so before; then it opens the first lane that
    has been empty since the parent.
    """
    placed: dict[int, Placed] = {}
    last: list[Placed] = []
    for number, node in enumerate(sorted(nodes, key=lambda node: node.key), start=1):
        parent = placed.get(node.parent) if node.parent is not None else None
        lane = _lane(parent, last)
        here = Placed(node=node, row=len(nodes) - number, lane=lane)
        last[lane : lane + 1] = [here]
        placed[node.key] = here
    return list(placed.values())


def _lane(parent: Placed | None, last: Sequence[Placed]) -> int:
    """Return the lane of the next node; `last` holds the newest node of every lane."""
    if parent is None:
        return len(last)
    if last[parent.lane] is parent:
        return parent.lane
    free = (lane for lane, newest in enumerate(last) if newest.row > parent.row)
    return next(free, len(last))


def draw(nodes: Sequence[Node], *, label: str) -> SafeString:
    """Draw the tree; its words are text and its labels links, for whoever reads it without seeing it."""
    placed = place(nodes)
    by_key = {one.node.key: one for one in placed}
    words_x = EDGE + max((one.lane for one in placed), default=0) * LANE + LANE + GAP
    width = max([LEAST_WIDTH, *(words_x + _words_width(one.node) for one in placed)])
    return format_html(
        '<svg class="lineage" viewBox="0 0 {} {}" role="group" aria-label="{}">{}{}</svg>',
        round(width),
        len(placed) * ROW,
        label,
        format_html_join(
            "",
            '<path class="lineage-line" aria-hidden="true" d="{}"/>',
            [
                (_line(by_key[one.node.parent], one),)
                for one in placed
                if one.node.parent in by_key and one.node.parent is not None
            ],
        ),
        format_html_join("", "{}", [(_node(one, words_x),) for one in placed]),
    )


def _line(parent: Placed, child: Placed) -> str:
    """Return the way from a parent into its child's lane, and up there."""
    if parent.lane == child.lane:
        return f"M{parent.x} {parent.y} V{child.y}"
    turn = parent.y - ROW
    return (
        f"M{parent.x} {parent.y} C{parent.x} {turn + ROW // 3} {child.x} {parent.y - ROW // 3}"
        f" {child.x} {turn} V{child.y}"
    )


def _node(one: Placed, words_x: int) -> SafeString:
    node = one.node
    caption_x = words_x + len(node.label) * LABEL_WIDTH + 10
    return format_html(
        '{}<a class="lineage-link" href="{}"><text class="lineage-label" x="{}" y="{}">{}</text></a> '
        '<text class="lineage-caption" x="{}" y="{}">{}</text>{}',
        _dot(one),
        node.url,
        words_x,
        one.y + 5,
        node.label,
        round(caption_x),
        one.y + 5,
        node.caption,
        _below(one, words_x),
    )


def _dot(one: Placed) -> SafeString:
    """Draw the dot; what it says by its look is said in words beside it."""
    x, y, is_main = one.x, one.y, one.node.main in one.node.names
    ring = format_html('<circle class="lineage-ring" cx="{}" cy="{}" r="11"/>', x, y)
    cross = format_html('<path class="lineage-cross" d="M{} {} l6 6 m0 -6 l-6 6"/>', x - 3, y - 3)
    return format_html(
        '<g aria-hidden="true">{}<circle class="lineage-dot is-{}" cx="{}" cy="{}" r="7"/>{}</g>',
        ring if is_main else mark_safe(""),
        one.node.look,
        x,
        y,
        cross if one.node.look == "broken" else mark_safe(""),
    )


def _below(one: Placed, x: float) -> SafeString:
    """Write the names, each in a frame of its own, and the note behind them."""
    parts = []
    for name in one.node.names:
        width = _name_width(name)
        parts.append(
            format_html(
                ' <g class="lineage-name {}"><rect x="{}" y="{}" width="{}" height="18" rx="5"/>'
                '<text x="{}" y="{}">{}</text></g>',
                "is-main" if name == one.node.main else "",
                round(x, 1),
                one.y + 13,
                round(width, 1),
                round(x + width / 2, 1),
                one.y + 26,
                name,
            )
        )
        x += width + 5
    if one.node.note:
        parts.append(
            format_html(
                ' <text class="lineage-note is-{}" x="{}" y="{}">{}</text>',
                one.node.look,
                round(x, 1),
                one.y + 26,
                one.node.note,
            )
        )
    return format_html_join("", "{}", [(part,) for part in parts])


def _name_width(name: str) -> float:
    return len(name) * NAME_WIDTH + 12


def _words_width(node: Node) -> float:
    """Return about how wide a node's two lines are."""
    first = len(node.label) * LABEL_WIDTH + 10 + len(node.caption) * CAPTION_WIDTH
    names = sum(_name_width(name) + 5 for name in node.names)
    return max(first, names + len(node.note) * CAPTION_WIDTH)
