from __future__ import annotations

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

    def test_marks_nothing_in_very_long_texts(self) -> None:
        long = "<b> word " * differences.MOST_WORDS

        before, after = differences.mark(long, "short")

        assert "<" not in before
        assert after == "short"

    def test_copes_with_nothing(self) -> None:
        assert differences.mark("", "new") == ("", "<ins>new</ins>")
        assert differences.mark("", "") == ("", "")
