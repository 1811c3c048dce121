from __future__ import annotations

import pytest
from playwright.sync_api import expect

from annotate import queries
from annotate.models import Split
from models_registry.models import Comparison
from tests import factories

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def version(model):
    """v1 with the likeliest answers to three held-out prompts, as v0 has them."""
    made = factories.ModelVersionFactory(model=model, adapter=True)
    sampling = queries.evaluation_sampling(queries.sampling_greedy(queries.policy_of(model)))
    for n in range(3):
        asked = factories.PromptFactory(model=model, split=Split.HOLDOUT)
        for one, text in ((made.parent, f"The old answer {n}."), (made, f"The new answer {n}.")):
            factories.CompletionFactory(prompt=asked, version=one, text=text, sampling=sampling)
    return made


@pytest.fixture
def page(quiet_page, log_in, context):
    """A quiet page of an admin who is logged in."""
    log_in(context, factories.UserFactory(is_staff=True))
    return quiet_page


@pytest.fixture
def url(live_server, model, version):
    return f"{live_server.url}/models/{model.slug}/compare/"


def at(page, place):
    expect(page.locator(".side-place")).to_have_text(place)


class TestCompare:
    def test_is_walked_through_with_the_keyboard(self, page, url):
        page.goto(url)
        # Gone after a full reload.
        page.evaluate("window.stayed = true")
        at(page, "1 of 3")
        expect(page.locator("#side del")).to_have_text("old")
        expect(page.locator("#side ins")).to_have_text("new")
        first = page.locator(".side-prompt").inner_text()

        page.keyboard.press("j")
        at(page, "2 of 3")
        assert page.locator(".side-prompt").inner_text() != first
        page.keyboard.press("ArrowRight")
        at(page, "3 of 3")
        # Nothing follows the last one.
        page.keyboard.press("j")
        at(page, "3 of 3")
        page.keyboard.press("k")
        at(page, "2 of 3")
        page.keyboard.press("ArrowLeft")
        at(page, "1 of 3")

        assert page.locator(".side-prompt").inner_text() == first
        assert page.evaluate("window.stayed") is True

    def test_leaves_keys_to_fields(self, page, url):
        page.goto(url)
        page.get_by_label("Candidate").focus()

        page.keyboard.press("j")

        at(page, "1 of 3")

    def test_keeps_its_place_in_the_address(self, page, url):
        page.goto(url)
        page.keyboard.press("j")
        at(page, "2 of 3")
        page.get_by_role("link", name="Rendered").click()
        expect(page.locator("#side ins")).to_have_count(0)
        at(page, "2 of 3")

        page.reload()
        at(page, "2 of 3")
        page.go_back()
        expect(page.locator("#side ins")).to_have_count(1)
        at(page, "2 of 3")
        page.go_back()
        at(page, "1 of 3")

    def test_works_without_scripts(self, browser, log_in, url):
        context = browser.new_context(java_script_enabled=False)
        log_in(context, factories.UserFactory(is_staff=True))
        page = context.new_page()
        page.goto(url)

        page.get_by_role("link", name="Next").click()
        at(page, "2 of 3")
        page.get_by_role("link", name="List").click()
        at(page, "2–3 of 3")  # noqa: RUF001
        page.get_by_role("spinbutton", name="Held-out prompts").fill("2")
        page.get_by_role("button", name="Ask labelers").click()

        expect(page.get_by_role("button", name="Stop asking labelers")).to_be_visible()
        assert Comparison.objects.get().budget == 2
        page.get_by_role("button", name="Stop asking labelers").click()
        expect(page.get_by_text("Labelers are not asked any more.")).to_be_visible()
        context.close()

    @pytest.mark.parametrize("width", [360, 1280])
    def test_fits_the_window(self, page, url, width):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(url)

        assert page.evaluate("document.documentElement.scrollWidth") <= width
