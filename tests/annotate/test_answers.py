from __future__ import annotations

import re

import pytest
from django.template import engines

from annotate import answers
from tests.factories import AssignmentFactory

pytestmark = pytest.mark.django_db

HOSTILE = "<script>alert(1)</script>"


def assignment(first: str = "One ship.", second: str = "Two ships.", **fields):
    return AssignmentFactory(pair__first__text=first, pair__second__text=second, **fields)


class TestPanes:
    @pytest.mark.parametrize("shown", ["text", "diff", "raw"])
    def test_shows_each_answer_on_the_side_of_the_assignment(self, shown):
        one = answers.panes(assignment("Alpha.", "Beta."), shown)
        other = answers.panes(assignment("Alpha.", "Beta.", first_is_left=False), shown)

        assert "Alpha." in one.left.html
        assert "Beta." in one.right.html
        assert "Beta." in other.left.html
        assert "Alpha." in other.right.html

    @pytest.mark.parametrize("shown", ["text", "diff", "raw"])
    def test_says_nothing_about_who_wrote_it(self, shown):
        lease = assignment("The same.", "The same.")

        panes = answers.panes(lease, shown)

        # The sides cannot be told apart, so nothing of a version, a number or a reason is in them.
        assert panes.left == panes.right

    def test_takes_the_last_message_for_the_prompt(self):
        lease = assignment()
        lease.pair.prompt.messages = [
            {"role": "system", "content": "Be *brief*."},
            {"role": "user", "content": "Hello?"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "How old is the sea?"},
        ]

        panes = answers.panes(lease, "text")

        assert panes.prompt.role == "user"
        assert "How old is the sea?" in panes.prompt.html
        assert [turn.role for turn in panes.turns] == ["system", "user", "assistant"]
        assert "<em>brief</em>" in panes.turns[0].html

    @pytest.mark.parametrize("shown", ["text", "diff", "raw"])
    def test_escapes_everything(self, shown):
        lease = assignment(HOSTILE, f"{HOSTILE} and more")
        lease.pair.prompt.messages = [{"role": "user", "content": HOSTILE}] * 2

        panes = answers.panes(lease, shown)

        for text in (panes.prompt, *panes.turns, panes.left, panes.right):
            assert "<script" not in text.html
            assert "&lt;script&gt;" in text.html

    def test_is_written_by_templates_as_html(self):
        panes = answers.panes(assignment("*one*"), "text")

        written = engines["django"].from_string("{{ left }}").render({"left": panes.left})

        assert written == panes.left.html

    def test_marks_the_place_of_the_first_difference_in_both(self):
        panes = answers.panes(assignment("One old ship came.", "One ship came."), "diff")

        assert panes.first_difference
        assert "<mark data-first-difference>old</mark>" in panes.left.html
        # There is nothing to mark, but a place to jump to.
        assert "<span data-first-difference></span>" in panes.right.html

    def test_marks_both_sides_alike(self):
        panes = answers.panes(assignment("red", "blue"), "diff")

        tags = [re.findall(r"<[a-z]+", text.html) for text in (panes.left, panes.right)]
        assert tags[0] == tags[1] == ["<div", "<mark"]

    def test_has_no_first_difference_of_equal_texts(self):
        assert not answers.panes(assignment("same", "same"), "diff").first_difference

    def test_has_none_where_nothing_is_compared(self):
        assert not answers.panes(assignment("one", "two"), "text").first_difference

    def test_says_when_only_lines_are_compared(self):
        texts = ["".join(f"{word}{n} " for n in range(9000)) for word in ("a", "b")]

        panes = answers.panes(assignment(*texts), "diff")

        assert "too long to compare word by word" in panes.left.html

    def test_says_when_the_texts_have_next_to_nothing_in_common(self):
        panes = answers.panes(assignment("red " * 60, "blue " * 60), "diff")

        assert "next to no words in common" in panes.left.html
        assert "<mark" not in panes.left.html + panes.right.html
        assert not panes.first_difference

    def test_shows_the_source_with_its_blanks_and_what_nobody_sees(self):
        panes = answers.panes(assignment("a  *b*\n\tc\u200bd\u202ee"), "raw")

        assert "a  *b*\n\tc" in panes.left.html
        assert (
            '<span class="unseen">ZWSP</span>d<span class="unseen">RLO</span>e' in panes.left.html
        )

    @pytest.mark.parametrize("shown", ["text", "diff", "raw"])
    def test_asks_the_database_nothing(self, shown, django_assert_num_queries):
        lease = assignment()

        with django_assert_num_queries(0):
            answers.panes(lease, shown)
