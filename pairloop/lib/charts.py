"""Charts as SVG, drawn on the server: no script, and the same in print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 320, 120
#: Room for the line's own width and the dot at its end.
EDGE = 6
#: Room for a trend's numbers above and its marks' names below.
ABOVE, BELOW, BESIDE = 26, 26, 24
#: With more marks, only some are named and numbered.
MOST_NAMED = 7


@dataclass(frozen=True, slots=True)
class Line:
    """(x, y) points under a name; two points or more."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def first(self) -> float:
        """The oldest value."""
        return self.points[0][1]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]

    @property
    def words(self) -> str:
        """Where it begins and ends, and how far it goes."""
        ys = [y for _, y in self.points]
        return f"{self.name}: from {ys[0]:.3g} to {ys[-1]:.3g}, between {min(ys):.3g} and {max(ys):.3g}"


@dataclass(frozen=True, slots=True)
class Chart:
    """One line over steps, or several on the same scale, with a title and a sentence about them."""

    title: str
    hint: str
    lines: tuple[Line, ...]

    @property
    def svg(self) -> SafeString:
        """The drawing, with its numbers in words for whoever cannot see it."""
        return drawn(self.lines)


def drawn(lines: Sequence[Line]) -> SafeString:
    """Draw lines from the lowest to the highest value of all; every one but the first is dashed."""
    points = [point for line in lines for point in line.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    placed = [
        [
            (
                round(_place(x, min(xs), max(xs), EDGE, WIDTH - EDGE), 1),
                # SVG counts from the top.
                round(_place(y, min(ys), max(ys), HEIGHT - EDGE, EDGE), 1),
            )
            for x, y in line.points
        ]
        for line in lines
    ]
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>',
        WIDTH,
        HEIGHT,
        "; ".join(line.words for line in lines),
        format_html_join(
            "",
            '<path class="chart-line{}" d="M{}"/><circle class="chart-end" cx="{}" cy="{}" r="4"/>',
            [
                (" is-dashed" if number else "", " L".join(f"{x} {y}" for x, y in line), *line[-1])
                for number, line in enumerate(placed)
            ],
        ),
    )


def _place(value: float, least: float, most: float, start: float, end: float) -> float:
    """Map a value between two others onto a stretch; a flat line runs through its middle."""
    share = (value - least) / (most - least) if most > least else 0.5
    return start + share * (end - start)


@dataclass(frozen=True, slots=True)
class Mark:
    """One value of a trend, and which mark it came from."""

    name: str
    value: float
    #: The name of the mark that a line leads from; empty for the first.
    parent: str = ""
    #: Where the true value may be, when that is known.
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Trend:
    """A value from mark to mark, each joined with the one that it came from."""

    title: str
    hint: str
    #: What stands below, from left to right, also where nothing was measured.
    names: tuple[str, ...]
    marks: tuple[Mark, ...]
    #: Writes a value; its unit is in the title.
    text: Callable[[float], str]

    @property
    def svg(self) -> SafeString:
        """The drawing, with its numbers in words for whoever cannot see it."""
        return trend(self.names, self.marks, label=self.title, text=self.text)


def trend(
    names: Sequence[str], marks: Sequence[Mark], *, label: str, text: Callable[[float], str]
) -> SafeString:
    """Draw marks side by side, numbered, with their intervals and a line from each one's parent."""
    ends = [end for mark in marks for end in (mark.value, *(mark.interval or ()))]
    least, most = min(ends), max(ends)

    def height(value: float) -> float:
        return _place(value, least, most, HEIGHT - BELOW, ABOVE)

    across = {
        name: _place(number, 0, len(names) - 1, BESIDE, WIDTH - BESIDE)
        for number, name in enumerate(names)
    }
    at = {mark.name: (across[mark.name], height(mark.value)) for mark in marks}
    lines = [(*at[mark.parent], *at[mark.name]) for mark in marks if mark.parent in at]
    whiskers = [
        (at[mark.name][0], height(mark.interval[0]), height(mark.interval[1]))
        for mark in marks
        if mark.interval
    ]
    named = _some(names)
    words = ", ".join(f"{mark.name} {text(mark.value)}" for mark in marks)
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}{}{}</svg>',
        WIDTH,
        HEIGHT,
        f"{label}: {words}",
        format_html_join("", '<path class="chart-line" d="M{} {} L{} {}"/>', _rounded(lines)),
        format_html_join("", '<path class="chart-whisker" d="M{0} {1} V{2}"/>', _rounded(whiskers)),
        format_html_join(
            "", '<circle class="chart-end" cx="{}" cy="{}" r="4"/>', _rounded(at.values())
        ),
        format_html_join(
            "",
            '<text class="chart-value" x="{}" y="{}">{}</text>',
            [
                (
                    round(across[mark.name], 1),
                    # Above the dot and its interval.
                    round(height(max(mark.value, *(mark.interval or (mark.value,)))) - 9, 1),
                    text(mark.value),
                )
                for mark in marks
                if mark.name in named
            ],
        ),
        format_html_join(
            "",
            '<text class="chart-name" x="{}" y="{}">{}</text>',
            [(round(across[name], 1), HEIGHT - 7, name) for name in named],
        ),
    )


def bars(
    names: Sequence[str], values: Sequence[float], *, label: str, text: Callable[[float], str]
) -> SafeString:
    """Draw a bar from 0 for each value, side by side; the highest is numbered."""
    most = max([*values, 1e-9])
    step = (WIDTH - 2 * BESIDE) / max(len(values), 1)
    placed = [
        (BESIDE + number * step, _place(value, 0, most, HEIGHT - BELOW, ABOVE))
        for number, value in enumerate(values)
    ]
    named = _some(names)
    words = ", ".join(f"{name} {text(value)}" for name, value in zip(names, values, strict=True))
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}</svg>',
        WIDTH,
        HEIGHT,
        f"{label}: {words}",
        format_html_join(
            "",
            '<rect class="chart-bar" x="{}" y="{}" width="{}" height="{}"/>',
            _rounded((x + 2, y, step - 4, HEIGHT - BELOW - y) for x, y in placed),
        ),
        format_html_join(
            "",
            '<text class="chart-value" x="{}" y="{}">{}</text>',
            [
                (round(x + step / 2, 1), round(y - 6, 1), text(value))
                for (x, y), value in zip(placed, values, strict=True)
                if value == most
            ][:1],
        ),
        format_html_join(
            "",
            '<text class="chart-name" x="{}" y="{}">{}</text>',
            [
                (round(x + step / 2, 1), HEIGHT - 7, name)
                for (x, _), name in zip(placed, names, strict=True)
                if name in named
            ],
        ),
    )


def _some(names: Sequence[str]) -> list[str]:
    """Return all of a few names, else evenly some, the last among them."""
    stride = -(-len(names) // MOST_NAMED)
    return list(names[::-1][::stride])


def _rounded(rows: Iterable[tuple[float, ...]]) -> list[tuple[float, ...]]:
    return [tuple(round(value, 1) for value in row) for row in rows]
