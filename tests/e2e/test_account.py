"""The account's page and the API's documentation in a real browser, under the real content security policy."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.factories import UserFactory

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_a_token_is_made_used_and_revoked(live_server, log_in, context, quiet_page, labeler):
    log_in(context, labeler)
    page = quiet_page
    page.goto(live_server.url)
    page.get_by_role("link", name=labeler.username).click()

    page.get_by_label("What will use it?").fill("notebook")
    page.get_by_role("button", name="Make a token").click()
    secret = page.get_by_label("notebook, until").input_value()

    assert re.fullmatch(r"pl_[0-9a-f]{64}", secret)
    header = {"Authorization": f"Token {secret}"}
    # A request context of its own: the browser's would send the session's cookie along.
    stranger = context.browser.new_context()
    ask = stranger.request.get
    assert ask(f"{live_server.url}/api/v1/models/", headers=header).status == 200

    page.get_by_role("button", name="Revoke notebook").click()

    expect(page.get_by_role("status")).to_contain_text("is revoked")
    assert ask(f"{live_server.url}/api/v1/models/", headers=header).status == 401
    stranger.close()


def test_the_documentation_draws_itself_and_can_be_tried(
    live_server, log_in, context, quiet_page, model
):
    log_in(context, UserFactory(is_staff=True))
    page = quiet_page
    page.goto(f"{live_server.url}/api/v1/docs/")

    expect(page.locator(".opblock")).not_to_have_count(0)
    page.locator("#operations-tokens-tokens_create .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.locator("#operations-tokens-tokens_create textarea").fill('{"name": "from the docs"}')
    page.get_by_role("button", name="Execute").click()

    # Which shows that the session's CSRF token went along.
    expect(
        page.locator(".live-responses-table .response .response-col_status").first
    ).to_contain_text("201")


@pytest.mark.parametrize("path", ["account/", "api/v1/docs/"])
def test_fits_a_phone(live_server, log_in, context, quiet_page, labeler, path, quiet):
    log_in(context, labeler)
    quiet_page.set_viewport_size({"width": 390, "height": 844})
    quiet_page.goto(live_server.url + "/" + path)
    quiet()

    assert quiet_page.evaluate("document.documentElement.scrollWidth") <= 390
