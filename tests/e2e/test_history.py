from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from tests import factories

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_opens_a_judgement_where_it_stands(
    live_server, context, quiet_page, log_in, model, labeler
):
    said = factories.JudgementFactory(
        assignment__labeler=labeler,
        assignment__closed_at=timezone.now() - timedelta(hours=1),
        assignment__pair__prompt__model=model,
        assignment__pair__first__text="# A heading\n\n" + "word " * 300 + "x" * 500,
        note="n" * 300,
        active_ms=64_000,
    )
    log_in(context, labeler)
    quiet_page.set_viewport_size({"width": 390, "height": 800})
    quiet_page.goto(f"{live_server.url}/models/{model.slug}/history/")

    quiet_page.get_by_text("Prompt and answers").click()

    quiet_page.get_by_role("heading", name="A heading").wait_for()
    quiet_page.get_by_text("Day by day").click()
    assert quiet_page.evaluate("document.documentElement.scrollWidth") == 390
    quiet_page.get_by_role("link", name="Change").click()
    quiet_page.wait_for_url("**/judge/**")
    assert said.assignment.judgements.count() == 1


def test_shows_what_guidelines_changed(live_server, context, quiet_page, log_in, model, labeler):
    for version, text in ((1, "Prefer what is **true**."), (2, "Prefer what is **kind**.")):
        factories.GuidelinesFactory(model=model, version=version, text=text)
    model.judging_policy.guidelines_version = 2
    model.judging_policy.save()
    log_in(context, labeler)
    quiet_page.set_viewport_size({"width": 390, "height": 800})
    quiet_page.goto(f"{live_server.url}/models/{model.slug}/history/")
    quiet_page.get_by_role("link", name="Guidelines").first.click()

    quiet_page.get_by_text("What changed since number 1").click()

    assert quiet_page.locator("ins:visible").all_inner_texts() == ["**kind**."]
    assert quiet_page.evaluate("document.documentElement.scrollWidth") == 390
