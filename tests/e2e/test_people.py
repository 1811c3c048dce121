from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from annotate.models import Judgement, JudgingPolicy
from tests import factories
from tests.e2e.judging import ready

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

PASSWORD = "nine lives of a cat"


@pytest.fixture
def page(quiet_page, log_in, context, model):
    """A quiet page of an admin who is logged in."""
    log_in(context, factories.UserFactory(username="ada", is_staff=True))
    return quiet_page


class TestPeople:
    def test_takes_somebody_from_their_name_to_their_first_judgement(
        self, page, live_server, model, browser
    ):
        factories.QueueEntryFactory(pair__prompt__model=model)
        page.goto(live_server.url)
        page.get_by_role("link", name="People who judge it").click()

        page.get_by_label("Name to log in with").fill("lea")
        page.get_by_role("button", name="Add", exact=True).click()
        link = page.get_by_label("Link for lea").input_value()

        theirs = browser.new_context().new_page()
        theirs.goto(link)
        assert link not in theirs.url
        for field in ("New password", "New password confirmation"):
            theirs.get_by_label(field, exact=True).fill(PASSWORD)
        theirs.get_by_role("button", name="Set and log in").click()
        expect(theirs.get_by_role("status")).to_contain_text("you are logged in")
        theirs.get_by_role("link", name="Judge").click()
        ready(theirs)
        theirs.get_by_role("button", name="Left is much better").click()
        expect(theirs.get_by_role("heading", level=1)).to_contain_text("You have judged")
        assert Judgement.objects.get().assignment.labeler.username == "lea"

        page.reload()
        row = page.get_by_role("row", name="lea")
        expect(row.get_by_role("cell").first).to_have_text("1")
        row.get_by_text("Change").click()
        row.get_by_role("button", name="Deactivate").click()
        expect(page.get_by_role("status")).to_contain_text("lea is logged out")
        theirs.reload()
        expect(theirs.get_by_role("heading", level=1)).to_have_text("Log in")
        assert not User.objects.get(username="lea").is_active


class TestSettings:
    def test_preview_guidelines_without_leaving_the_page(self, page, live_server, model):
        page.goto(f"{live_server.url}/models/{model.slug}/settings/")
        # Gone after a full reload.
        page.evaluate("window.stayed = true")

        page.get_by_role("textbox", name="Text, number 1").fill("Be **kind**.")
        page.get_by_role("button", name="Preview").click()

        expect(page.locator(".settings-preview strong")).to_have_text("kind")
        assert page.evaluate("window.stayed") is True
        assert JudgingPolicy.objects.get().guidelines_version == 1
        page.locator("#guidelines").get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_have_text("Saved.")
        assert JudgingPolicy.objects.get().guidelines == "Be **kind**."
