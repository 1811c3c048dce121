"""What only a browser can tell of the pages about versions."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from annotate.models import Pair
from tests.factories import UserFactory
from tests.pairloop.history import history_make

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

PHONE = {"width": 390, "height": 844}
#: The dots of the lineage, one below the other, and whether the words beside them stay inside.
INSIDE = """svg => {
    const frame = svg.viewBox.baseVal;
    return [...svg.querySelectorAll("text, rect, circle, path")].every(one => {
        const box = one.getBBox();
        return box.x >= 0 && box.y >= 0 && box.x + box.width <= frame.width && box.y + box.height <= frame.height;
    });
}"""
FITS = "document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture
def page_of(quiet_page: Page, context, live_server, log_in, transactional_db):
    """Return a function that opens a page about a model of six versions as an admin."""
    history_make()
    log_in(context, UserFactory(is_staff=True))

    def open_(path: str) -> Page:
        quiet_page.goto(f"{live_server.url}/models/demo/{path}")
        return quiet_page

    return open_


class TestVersions:
    def test_draw_everything_inside_its_frame(self, page_of) -> None:
        page = page_of("versions/")

        assert page.locator("svg.lineage").evaluate(INSIDE)
        for chart in page.locator("svg.chart").all():
            assert chart.evaluate(INSIDE)

    def test_lead_from_the_drawing_to_a_version(self, page_of) -> None:
        page = page_of("versions/")

        page.get_by_role("group", name="Which version was made").get_by_role(
            "link", name="v3"
        ).click()

        expect(page.get_by_role("heading", level=1)).to_contain_text("v3")

    def test_lead_from_a_version_to_a_judgement_and_back(self, page_of) -> None:
        page = page_of("versions/2/")

        page.get_by_role("link", name="2 new triples").click()
        page.get_by_role("link", name=re.compile(r"^Pair \d")).first.click()
        expect(page.get_by_text("A is better")).to_be_visible()
        page.get_by_role("link", name="v2", exact=True).click()

        expect(page.get_by_role("heading", level=1)).to_contain_text("v2")

    @pytest.mark.parametrize("path", ["versions/", "versions/5/", "versions/5/triples/", "pair"])
    def test_fit_a_phone(self, page_of, path: str) -> None:
        page = page_of(f"pairs/{Pair.objects.first().pk}/" if path == "pair" else path)

        page.set_viewport_size(PHONE)
        for fold in page.locator("details").all():
            fold.evaluate("fold => { fold.open = true; }")

        assert page.evaluate(FITS)

    def test_hand_out_the_card_as_a_file(self, page_of) -> None:
        page = page_of("versions/5/")

        with page.expect_download() as download:
            page.get_by_role("link", name="Download the card").click()

        assert download.value.suggested_filename == "demo-v5.md"
