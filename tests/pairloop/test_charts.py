from __future__ import annotations

from pairloop.lib.charts import Mark, bars, trend


def draw(*marks: Mark, names: tuple[str, ...] = ()) -> str:
    return trend(
        names or tuple(mark.name for mark in marks), marks, label="Loss", text="{:.1f}".format
    )


class TestTrend:
    def test_joins_each_mark_with_its_parent(self) -> None:
        # v2 comes from v0 like v1: no line leads from v1 to v2.
        svg = draw(Mark("v0", 0.0), Mark("v1", 1.0, "v0"), Mark("v2", 0.5, "v0"))

        assert svg.count("chart-line") == 2
        # v0 is the lowest, on the left; v1 the highest, in the middle; v2 half way up, on the right.
        assert 'd="M24.0 94.0 L160.0 26.0"' in svg
        assert 'd="M24.0 94.0 L296.0 60.0"' in svg

    def test_says_its_numbers_in_words(self) -> None:
        assert 'aria-label="Loss: v0 0.0, v1 1.0"' in draw(Mark("v0", 0.0), Mark("v1", 1.0, "v0"))

    def test_keeps_a_place_for_what_was_not_measured(self) -> None:
        svg = draw(Mark("v0", 0.0), Mark("v2", 1.0, "v1"), names=("v0", "v1", "v2"))

        assert ">v1</text>" in svg
        assert svg.count("chart-end") == 2
        assert "chart-line" not in svg

    def test_makes_room_for_intervals(self) -> None:
        svg = draw(Mark("v0", 0.5, interval=(0.0, 1.0)), Mark("v1", 0.5, "v0"))

        # From the bottom to the top, and the dots half way.
        assert 'd="M24.0 94.0 V26.0"' in svg
        assert 'cy="60.0"' in svg

    def test_names_only_some_of_many(self) -> None:
        svg = draw(*(Mark(f"v{number}", float(number)) for number in range(30)))

        assert svg.count("chart-end") == 30
        assert svg.count("chart-name") == 6
        assert ">v29</text>" in svg


class TestBars:
    def test_begin_at_zero_and_number_the_highest(self) -> None:
        svg = bars(["1", "2", "3"], [0.0, 30.0, 60.0], label="Minutes", text="{:.0f}".format)

        assert 'aria-label="Minutes: 1 0, 2 30, 3 60"' in svg
        heights = [float(part.split('"')[0]) for part in svg.split('height="')[1:]]
        assert heights == [0.0, 34.0, 68.0]
        assert svg.count("chart-value") == 1
        assert ">60</text>" in svg

    def test_of_nothing_are_flat(self) -> None:
        svg = bars(["1", "2"], [0.0, 0.0], label="Minutes", text="{:.0f}".format)

        assert svg.count('height="0.0"') == 2
        assert "chart-value" not in svg
