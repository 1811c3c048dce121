"""axe-core finds nothing on the judging screen: WCAG 2.2 A and AA, in light and dark, wide and narrow."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.e2e.judging import ended, judge, queued, ready, saved

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RICH = "See [a](https://a.example).\n\n> quote\n\n```python\ndef f(): # x\n  return 'y'\n```\n\n| a | b |\n|-|-|\n| 1 | 2 |"


@pytest.fixture
def page(quiet_page, log_in, context, labeler):
    """A quiet page of a labeler who is logged in."""
    log_in(context, labeler)
    return quiet_page


@pytest.fixture
def violations(page, complaints):
    """Return what axe finds. It is evaluated as a debugger would: the page's policy lets no script in."""
    # Preloading, it would fetch style sheets once more, some by a wrong name.
    options = {"runOnly": {"type": "tag", "values": TAGS}, "preload": False}

    def find():
        before = len(complaints)
        found = Axe().run(page, options=options)
        # axe tries styles of its own, which the policy forbids and the console tells.
        page.wait_for_timeout(200)
        del complaints[before:]
        return _found(found)

    return find


def _found(found):
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for one in found.response["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
class TestAxe:
    @pytest.fixture(autouse=True)
    def looks(self, page, scheme, size):
        """Set colours and size."""
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": size[0], "height": size[1]})

    def test_finds_nothing_on_a_pair(self, page, judge_url, model, violations):
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
        page.wait_for_load_state("networkidle")
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
