"""Charts as SVG, drawn on the server: no script, and the same in print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.html import format_html
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 320, 120
#: Room for the line's own width and the dot at its end.
EDGE = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """A line over steps, with a title and a sentence about it."""

    title: str
    hint: str
    points: tuple[tuple[float, float], ...]

    @property
    def svg(self) -> SafeString:
        """The drawing, with its numbers in words for whoever cannot see it."""
        return line(self.points, label=self.title)

    @property
    def first(self) -> float:
        """The oldest value."""
        return self.points[0][1]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


def line(points: Sequence[tuple[float, float]], *, label: str) -> SafeString:
    """Draw (x, y) points as a line from the lowest to the highest value; needs two points or more."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    placed = [
        (
            _place(x, min(xs), max(xs), EDGE, WIDTH - EDGE),
            # SVG counts from the top.
            _place(y, min(ys), max(ys), HEIGHT - EDGE, EDGE),
        )
        for x, y in points
    ]
    words = f"{label}: from {ys[0]:.3g} to {ys[-1]:.3g}, between {min(ys):.3g} and {max(ys):.3g}"
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path class="chart-line" d="{}"/><circle class="chart-end" cx="{}" cy="{}" r="4"/></svg>',
        WIDTH,
        HEIGHT,
        words,
        "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in placed),
        f"{placed[-1][0]:.1f}",
        f"{placed[-1][1]:.1f}",
    )


def _place(value: float, least: float, most: float, start: float, end: float) -> float:
    """Map a value between two others onto a stretch; a flat line runs through its middle."""
    share = (value - least) / (most - least) if most > least else 0.5
    return start + share * (end - start)
