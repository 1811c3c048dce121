"""Who writes loses no letter, and no letter becomes a verdict: prompts of one's own, notes, reasons and undo."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import expect

from annotate.models import Judgement, JudgingPolicy
from tests.e2e.judging import (
    forgive_the_network,
    judge,
    queued,
    queued_many,
    ready,
    revisions,
    saved,
    shown,
)

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]


@pytest.fixture
def page(quiet_page, log_in, context, labeler):
    """A quiet page of a labeler who is logged in."""
    log_in(context, labeler)
    return quiet_page


@pytest.fixture
def begin(page, judge_url, model):
    """Open the judging screen while so many pairs wait; return the one that takes a verdict now."""

    def begun(number):
        queued_many(model, number)
        page.goto(judge_url)
        return ready(page)

    return begun


@pytest.fixture
def begin_judged(begin, page):
    """The same, and judge the first; return it when it is saved and the next one takes a verdict."""

    def begun(number):
        one = begin(number)
        page.keyboard.press("a")
        ready(page)
        saved(page)
        return one

    return begun


def write_note(page, text):
    """Write a note on the last judgement; the focus stays in it."""
    page.get_by_role("button", name="Note on your last judgement").click()
    page.keyboard.type(text)


def last(uuid):
    """Return the latest revision of an assignment."""
    return Judgement.objects.filter(assignment=uuid).latest("revision")


class TestAPairThatArrives:
    def test_waits_until_a_prompt_is_written(self, page, judge_url, model):
        page.goto(judge_url)
        expect(page.locator("[data-ready] [data-waiting]")).to_be_visible()
        page.get_by_text("Write a prompt yourself").click()
        written = page.get_by_label("A prompt that")
        written.click()
        queued_many(model, 3)

        expect(page.get_by_role("heading", level=1)).to_have_text("A pair is here", timeout=10_000)
        page.keyboard.type("a sad fag")

        expect(written).to_be_focused()
        assert written.input_value() == "a sad fag"
        assert shown(page) == ""
        page.get_by_role("button", name="Have it answered").click()
        ready(page)
        expect(page.locator("#attack")).to_contain_text("You get its two answers next")
        assert not Judgement.objects.exists()

    def test_waits_until_a_note_on_the_last_judgement_is_written(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        (one,) = judge(page, "a")
        saved(page)
        write_note(page, "sad")
        queued(model, "Two?")
        expect(page.get_by_role("heading", level=1)).to_have_text("A pair is here", timeout=10_000)
        page.keyboard.type(" fads")

        page.keyboard.press("Escape")

        assert ready(page) != one
        page.wait_for_timeout(800)
        saved(page)
        assert last(one).note == "sad fads"
        assert Judgement.objects.exclude(assignment=one).count() == 0


class TestUndo:
    def test_takes_back_what_has_a_reason_already(self, page, begin_judged):
        one = begin_judged(4)

        page.keyboard.press("1")
        page.keyboard.press("z")

        assert ready(page) == one
        saved(page)
        assert revisions(one)[-1] == ""
        expect(page.locator("[data-today]").last).to_have_text("0 today")
        # Said again with its reason.
        page.keyboard.press("Shift+Z")
        ready(page)
        saved(page)
        assert (last(one).verdict, last(one).reasons) == ("left_much", ["correct"])

    def test_takes_back_a_reason_that_waits_for_the_network(
        self, page, begin, context, complaints, quiet
    ):
        begin(4)
        quiet()
        context.set_offline(True)
        (one,) = judge(page, "a")
        ready(page)

        # The verdict was tried in vain, the reason was not tried yet.
        page.keyboard.press("1")
        page.wait_for_timeout(800)
        page.keyboard.press("z")
        assert ready(page) == one
        context.set_offline(False)

        saved(page)
        assert revisions(one) == ["left_much", ""]
        forgive_the_network(page, complaints)

    def test_of_a_judgement_and_its_reason_without_network_sends_neither(
        self, page, begin, context, complaints, quiet
    ):
        begin(4)
        quiet()
        context.set_offline(True)
        first, second = judge(page, "as")
        ready(page)
        page.keyboard.press("1")
        page.wait_for_timeout(800)
        page.keyboard.press("z")
        assert ready(page) == second
        context.set_offline(False)

        saved(page)
        assert revisions(first) == ["left_much"]
        assert revisions(second) == []
        forgive_the_network(page, complaints)

    def test_keeps_a_note_that_is_open(self, page, begin_judged):
        one = begin_judged(4)
        write_note(page, "because")

        page.get_by_role("button", name="Undo").click()

        assert ready(page) == one
        saved(page)
        assert revisions(one)[-1] == ""
        page.keyboard.press("Shift+Z")
        ready(page)
        saved(page)
        assert (last(one).verdict, last(one).note) == ("left_much", "because")


class TestAForeignAnswer:
    @pytest.mark.parametrize(
        ("status", "kind", "body"),
        [
            (404, "text/html", "<h1>Not here</h1>"),
            (400, "application/json", '{"error": "bad gateway"}'),
            (413, "text/html", "too large"),
        ],
    )
    def test_refuses_nothing_for_good(self, page, begin, complaints, status, kind, body, quiet):
        begin(3)
        quiet()
        is_in_the_way = re.compile(r"/judge/([0-9a-f-]{36}/|keep/)$")
        page.route(
            is_in_the_way,
            lambda route: route.fulfill(status=status, content_type=kind, body=body),
        )
        (one,) = judge(page, "a")
        expect(page.locator("[data-outbox].is-waiting")).to_have_text("1 waiting to be sent")
        expect(page.locator("[data-troubles]")).to_be_empty()

        page.unroute(is_in_the_way)

        saved(page)
        assert revisions(one) == ["left_much"]
        forgive_the_network(page, complaints)


class TestANote:
    def test_on_the_last_judgement_outlives_the_page(self, page, begin_judged, judge_url):
        one = begin_judged(3)
        write_note(page, "because")

        page.goto("about:blank")
        page.goto(judge_url)

        ready(page)
        saved(page)
        assert last(one).note == "because"

    def test_that_lost_the_focus_outlives_the_next_pair(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        (one,) = judge(page, "a")
        saved(page)
        write_note(page, "because")
        page.evaluate("document.activeElement.blur()")
        queued(model, "Two?")

        assert ready(page) != one
        page.wait_for_timeout(800)
        saved(page)
        assert last(one).note == "because"

    def test_on_this_pair_is_not_one_on_the_last(self, page, begin):
        one = begin(3)
        page.keyboard.press("a")
        two = ready(page)
        write_note(page, "of one")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("e")
        page.keyboard.type("of two")
        page.keyboard.press("Escape")
        page.keyboard.press("d")
        ready(page)
        saved(page)

        assert (last(one).note, last(two).note) == ("of one", "of two")

    def test_stays_with_a_pair_that_is_set_aside(self, page, begin):
        one = begin(2)
        page.keyboard.press("e")
        page.keyboard.type("because")
        page.keyboard.press("Escape")

        page.keyboard.press("n")
        other = ready(page)
        assert other != one
        saved(page)
        page.keyboard.press("d")

        assert ready(page) == one
        page.keyboard.press("a")
        saved(page)
        assert last(one).note == "because"
        assert last(other).note == ""

    def test_is_there_after_the_page_is_loaded_again(self, page, begin):
        one = begin(1)
        page.keyboard.press("e")
        page.keyboard.type("because")
        page.reload()

        assert ready(page) == one
        page.keyboard.press("a")
        saved(page)
        assert last(one).note == "because"


class TestGuidelines:
    def test_that_changed_are_told_once_and_not_claimed(self, page, judge_url, model):
        queued_many(model, 4)
        page.clock.install()
        page.goto(judge_url)
        one = ready(page)
        JudgingPolicy.objects.filter(model=model).update(
            guidelines="Prefer the shorter one.", guidelines_version=2
        )
        with page.expect_response("**/keep/"):
            page.clock.run_for(61_000)
        notice = page.get_by_text("The guidelines changed.")
        expect(notice).to_have_count(1)
        page.keyboard.press("a")
        saved(page)
        assert last(one).guidelines_version == 1

        page.get_by_role("link", name="Load the page again").click()
        expect(page.get_by_text("Guidelines, version 2")).to_be_visible()
        expect(page.get_by_text("The guidelines changed.")).to_have_count(0)
        other = ready(page)
        page.keyboard.press("a")
        saved(page)
        assert last(other).guidelines_version == 2

    def test_that_changed_are_told_with_the_next_judgement(self, page, begin, model):
        begin(2)
        JudgingPolicy.objects.filter(model=model).update(guidelines_version=2)

        judge(page, "a")

        expect(page.get_by_text("The guidelines changed.")).to_have_count(1)


class TestUndoOnItsWay:
    def test_of_a_verdict_that_is_in_flight_is_not_repeated(self, page, begin, quiet):
        begin(4)
        quiet()
        held = []
        a_judgement = re.compile(r"/judge/[0-9a-f-]{36}/$")

        def hold(route):
            if held:
                route.fallback()
            else:
                held.append(route)

        page.route(a_judgement, hold)
        (one,) = judge(page, "a")
        page.wait_for_timeout(200)
        page.keyboard.press("z")
        assert ready(page) == one
        held[0].continue_()
        saved(page)
        assert revisions(one) == ["left_much", ""]

        # Nothing before it: nothing to take back, and the pair is not shown once more.
        expect(page.get_by_role("button", name="Undo")).to_be_disabled()
        seen = set(judge(page, "sdfg"))
        assert one in seen
        assert len(seen) == 4
        saved(page)
        assert revisions(one) == ["left_much", "", "left"]

    def test_names_the_revision_it_takes_back(self, page, judge_url, model):
        queued_many(model, 3)
        page.goto(judge_url)
        sent = []
        page.on(
            "request",
            lambda asked: (
                re.search(r"[0-9a-f]{12}/(undo/)?$", asked.url)
                and asked.method == "POST"
                and sent.append(parse_qs(asked.post_data)["of"])
            ),
        )
        judge(page, "a")
        ready(page)
        saved(page)
        page.keyboard.press("1")
        page.wait_for_timeout(800)
        saved(page)
        page.keyboard.press("z")
        ready(page)
        saved(page)
        page.keyboard.press("d")
        ready(page)
        saved(page)

        assert sent == [["0"], ["1"], ["2"], ["3"]]


class TestAPairThatComesAgain:
    def test_is_said_again_with_reasons_and_note(self, page, begin):
        one = begin(3)
        page.keyboard.press("a")
        ready(page)
        page.keyboard.press("2")
        write_note(page, '"because"')
        page.keyboard.press("Escape")
        page.wait_for_timeout(800)
        saved(page)
        page.keyboard.press("z")
        ready(page)
        saved(page)
        page.reload()
        assert ready(page) == one

        page.get_by_role("button", name="Say it again").click()

        ready(page)
        saved(page)
        found = last(one)
        assert (found.verdict, found.reasons, found.note) == ("left_much", ["follows"], '"because"')

    def test_is_still_flagged(self, page, begin):
        one = begin(2)
        flag = page.get_by_role("button", name="Flag")
        page.keyboard.press("b")
        saved(page)
        page.reload()
        assert ready(page) == one
        expect(flag).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("n")
        ready(page)
        expect(flag).to_have_attribute("aria-pressed", "false")
        saved(page)
        page.keyboard.press("d")
        assert ready(page) == one
        expect(flag).to_have_attribute("aria-pressed", "true")
        with page.expect_response("**/flag/") as answered:
            page.keyboard.press("b")
        assert answered.value.request.post_data.startswith("is_raised=0")


class TestCannotJudge:
    def test_is_asked_why_at_once(self, page, begin):
        one = begin(3)
        page.keyboard.press("a")

        # Within the moment in which the next pair takes no verdict.
        page.keyboard.press("q")
        page.keyboard.press("1")

        two = ready(page)
        expect(page.locator("[data-cannot]")).to_be_visible()
        page.keyboard.press("1")
        ready(page)
        saved(page)
        assert (last(one).verdict, last(one).reasons) == ("left_much", [])
        assert (last(two).verdict, last(two).reasons) == ("cannot_judge", ["expertise"])

    def test_keeps_its_reason_when_it_is_revised(self, page, begin, judge_url):
        one = begin(2)
        page.keyboard.press("q")
        page.keyboard.press("2")
        ready(page)
        saved(page)
        page.goto(f"{judge_url}{one}/")
        expect(page.get_by_label("the prompt is broken")).to_be_checked()
        page.get_by_label("another reason").check()
        page.get_by_role("button", name="I can't judge").click()
        page.wait_for_load_state()
        assert last(one).reasons == ["broken", "other"]

        page.goto(f"{judge_url}{one}/")
        page.get_by_text("Why, if one is better").click()
        page.get_by_label("clearer").check()
        page.get_by_role("button", name="Left is much better").click()
        page.wait_for_load_state()
        assert (last(one).verdict, last(one).reasons) == ("left_much", ["clear"])


class TestDifference:
    @pytest.mark.parametrize("apart", [False, True])
    def test_is_in_sight_after_one_press(self, page, judge_url, model, apart):
        same = "The same line.\n\n" * 150
        queued(model, "Which?", f"{same}One end.", f"{same}Another end.")
        page.goto(judge_url)
        ready(page)
        jump = page.get_by_role("button", name="First difference")
        expect(jump).to_be_hidden()
        page.keyboard.press("v")
        expect(jump).to_be_visible()
        first = page.locator("[data-first-difference]")
        expect(first).to_have_count(2)
        expect(first.first).not_to_be_in_viewport()
        if apart:
            page.keyboard.press("y")

        page.keyboard.press("Shift+V")

        expect(first.first).to_be_in_viewport()
        expect(first.last).to_be_in_viewport()
        page.keyboard.press("v")
        expect(jump).to_be_hidden()
