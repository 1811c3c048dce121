from __future__ import annotations

import pytest

from annotate.models import Prompt

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_a_labeler_writes_a_prompt_and_hears_of_its_answers(
    live_server, context, quiet_page, log_in, model, labeler, complaints
):
    page = quiet_page
    log_in(context, labeler)
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{live_server.url}/models/{model.slug}/judge/prompts/")
    written = page.get_by_label("A prompt that")

    written.fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Have it answered").click()

    told = page.get_by_role("status")
    told.wait_for()
    assert "You get its two answers next" in told.inner_text()
    # Whoever uses a screen reader is where the news is.
    assert told.evaluate("node => node === document.activeElement")
    assert written.input_value() == ""
    assert Prompt.objects.get().author == labeler

    written.fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Have it answered").click()

    page.get_by_role("alert").wait_for()
    assert "is here already" in page.get_by_role("alert").inner_text()
    assert written.input_value() == "<img src=x onerror=alert(1)>"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # The browser tells its console of the answer 422; nothing else may be there.
    assert [said for said in complaints if "422" not in said] == []
    complaints.clear()


def test_a_field_that_was_resized_breaks_no_rule_about_styles(
    live_server, context, quiet_page, log_in, model, labeler
):
    page = quiet_page
    log_in(context, labeler)
    page.goto(f"{live_server.url}/models/{model.slug}/judge/prompts/")
    written = page.get_by_label("A prompt that")
    box = written.bounding_box()
    x, y = box["x"] + box["width"] - 4, box["y"] + box["height"] - 4
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 80, steps=4)
    page.mouse.up()
    # The browser itself writes it down there.
    assert "height" in written.get_attribute("style")

    written.fill("Why?")
    page.get_by_role("button", name="Have it answered").click()

    page.get_by_role("status").wait_for()


def test_the_form_works_without_javascript(live_server, browser, log_in, model, labeler):
    context = browser.new_context(java_script_enabled=False)
    log_in(context, labeler)
    page = context.new_page()
    page.goto(f"{live_server.url}/models/{model.slug}/judge/prompts/")

    page.get_by_label("A prompt that").fill("Why?")
    page.get_by_role("button", name="Have it answered").click()

    assert page.url.endswith("/judge/")
    assert "You get its two answers next" in page.content()
    context.close()
