from __future__ import annotations

import itertools
import random
import re
import time

import pytest

from pairloop.lib import differences


class TestMark:
    def test_marks_what_only_one_of_them_has(self) -> None:
        before, after = differences.mark("The old ship came home.", "The ship came home late.")

        assert before == "The <del>old</del> ship came <del>home.</del>"
        assert after == "The ship came <ins>home late.</ins>"

    def test_leaves_equal_texts_alone(self) -> None:
        assert differences.mark("One\n\ntwo", "One\n\ntwo") == ("One\n\ntwo", "One\n\ntwo")

    def test_takes_other_blanks_for_no_difference(self) -> None:
        before, after = differences.mark("  one two", "  one\n\ntwo")

        assert "<" not in before + after
        assert after == "  one\n\ntwo"

    def test_escapes_hostile_text_on_both_sides(self) -> None:
        hostile = "<script>alert(1)</script> </del><img src=x onerror=alert(1)> & {{ x }} {0}"

        before, after = differences.mark("same " + hostile, "same")

        assert "<script" not in before
        assert "<img" not in before
        assert before.count("<del>") == before.count("</del>") == 1
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in before
        assert "{{ x }} {0}" in before
        assert after == "same"

    def test_escapes_what_both_have(self) -> None:
        before, after = differences.mark("<b>bold</b>", "<b>bold</b>")

        assert before == after == "&lt;b&gt;bold&lt;/b&gt;"

    def test_takes_lines_for_words_in_very_long_texts(self) -> None:
        old = "".join(f"<b> {n} {n} {n} {n} {n}\n" for n in range(3000))

        before, after = differences.mark("same\n" + old + "end", "same\nshort\nend")

        assert before.startswith("same\n<del>&lt;b&gt; 0")
        assert before.endswith("</del>\nend")
        assert after == "same\n<ins>short</ins>\nend"

    def test_copes_with_nothing(self) -> None:
        assert differences.mark("", "new") == ("", "<ins>new</ins>")
        assert differences.mark("", "") == ("", "")


class TestCompare:
    def test_marks_both_texts_alike(self) -> None:
        found = differences.compare("The old ship came.", "The new ship came.")

        assert found.left == "The <mark data-first-difference>old</mark> ship came."
        assert found.right == "The <mark data-first-difference>new</mark> ship came."

    def test_names_the_first_difference_only(self) -> None:
        found = differences.compare("a b1 c d d d d e1 f", "a b2 c d d d d e2 f")

        assert found.left.count("data-first-difference") == 1
        assert found.left.index("data-first-difference") < found.left.index("b1")

    def test_has_a_place_to_jump_to_where_there_is_nothing_to_mark(self) -> None:
        found = differences.compare("a c", "a b c")

        assert found.first_difference
        assert found.left == "a <span data-first-difference></span>c"

    def test_marks_nothing_where_next_to_everything_differs(self) -> None:
        left, right = "<b> " + "red " * 60, "Where " + "blue " * 60
        compared = differences.compare(left, right)

        assert compared.is_unlike
        assert not compared.first_difference
        assert (compared.left, compared.right) == (left.replace("<b>", "&lt;b&gt;"), right)
        # A part in common is worth a look; so is a short text.
        assert "<mark" in differences.compare(left, right + "red " * 12 + "and more").left
        assert "<mark" in differences.compare("red " * 9, "blue " * 9).left

    def test_finds_none_in_equal_texts(self) -> None:
        found = differences.compare("a b", "a  b")

        assert not found.first_difference
        assert "<" not in found.left + found.right

    def test_takes_characters_for_words_in_chinese_and_japanese(self) -> None:
        found = differences.compare("海有多老。", "海有多深。")

        assert found.left == "海有多<mark data-first-difference>老</mark>。"

    def test_leaves_no_islands_that_both_have_by_chance(self) -> None:
        found = differences.compare("one two of three four", "five six of seven eight")

        assert found.left == "<mark data-first-difference>one two of three four</mark>"

    def test_marks_blanks_that_only_one_of_them_has(self) -> None:
        assert "<mark data-first-difference> </mark>" in differences.compare(" ", "").left

    def test_escapes_both(self) -> None:
        found = differences.compare("<b>", "\"'&<i onclick=x>")

        assert found.left == "<mark data-first-difference>&lt;b&gt;</mark>"
        assert "<i" not in found.right

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            ("a " * 4000, "a b " * 2000),
            ("a b b " * 1500, "b a " * 2000),
            ("x1 x2 a " * 1500, "y1 y2 a " * 1500),
            ("a " * 50_000, "b a " * 25_000),
            ("a\n" * 50_000, "b\n" * 50_000),
            ("a" * 100_000, "b" * 100_000),
            ("老" * 30_000, "深老" * 15_000),
            (" " * 100_000, "\n" * 100_000),
        ],
        ids=range(8),
    )
    def test_takes_no_long_time_over_texts_made_for_it(self, left: str, right: str) -> None:
        # difflib takes more than a minute for the first one; this is 0.1 s on a quiet machine.
        start = time.process_time()

        found = differences.compare(left, right)

        assert time.process_time() - start < 3
        assert re.sub("<[^>]*>", "", found.left) == left

    def test_agrees_with_the_table_of_dynamic_programming(self) -> None:
        dice = random.Random(7)
        for _ in range(300):
            old, new = ("".join(dice.choices("abcd", k=dice.randrange(12))) for _ in range(2))

            pairs = differences._longest_common(old, new)

            assert pairs == sorted(set(pairs))
            assert all(old[one] == new[other] for one, other in pairs)
            assert len(pairs) == longest_common(old, new)


def longest_common(old: str, new: str) -> int:
    """Return the length of the longest common subsequence, the slow way."""
    row = [0] * (len(new) + 1)
    for mine in old:
        row = list(
            itertools.accumulate(
                range(1, len(new) + 1),
                lambda so_far, at, mine=mine, row=row: (
                    row[at - 1] + 1 if mine == new[at - 1] else max(row[at], so_far)
                ),
                initial=0,
            )
        )
    return row[-1]
