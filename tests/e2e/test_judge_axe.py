"""axe-core finds nothing on the judging screen: WCAG 2.2 A and AA, in light and dark, wide and narrow."""

from __future__ import annotations

from functools import partial

import pytest

from tests.e2e import axe
from tests.e2e.axe import RICH
from tests.e2e.judging import ended, judge, queued, ready, saved

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(quiet_page, log_in, context, labeler):
    """A quiet page of a labeler who is logged in."""
    log_in(context, labeler)
    return quiet_page


@pytest.fixture
def violations(page, complaints):
    """Return what axe finds."""
    return partial(axe.violations, page, complaints)


@axe.looks
class TestAxe:
    @pytest.fixture(autouse=True)
    def looks(self, page, scheme, size):
        """Set colours and size."""
        axe.look(page, scheme, size)

    def test_finds_nothing_on_a_pair(self, page, judge_url, model, violations, quiet):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is [this](https://a.example)?"},
        ]
        queued(model, "", RICH, "b", messages=messages)
        page.goto(judge_url)
        ready(page)

        assert violations() == []
        page.keyboard.press("h")
        page.keyboard.press("i")
        page.keyboard.press("v")
        page.keyboard.press("y")
        page.keyboard.press("b")
        page.keyboard.press("e")
        quiet()
        assert violations() == []

    def test_finds_nothing_after_a_judgement_nor_in_what_opens(
        self, page, judge_url, model, violations
    ):
        for text in ("One?", "Two?", "Three?"):
            queued(model, text, RICH, "b")
        page.goto(judge_url)
        judge(page, "sd")
        ready(page)
        page.keyboard.press("z")
        judge(page, "s")
        ready(page)
        page.keyboard.press("1")
        page.wait_for_timeout(700)

        assert violations() == []
        page.keyboard.press("q")
        assert violations() == []
        page.keyboard.press("Escape")
        page.keyboard.press("z")
        page.keyboard.press("?")
        assert violations() == []

    def test_finds_nothing_while_waiting(self, page, judge_url, model, violations):
        page.goto(judge_url)

        assert violations() == []

    def test_finds_nothing_at_the_end_nor_in_a_revision(self, page, judge_url, model, violations):
        queued(model, "One?", RICH, "b")
        page.goto(judge_url)
        (uuid,) = judge(page, "s")
        ended(page)
        saved(page)
        page.wait_for_timeout(700)

        assert violations() == []
        page.goto(f"{judge_url}{uuid}/")
        assert violations() == []
