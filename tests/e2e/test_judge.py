"""The judging screen as a person sees it: reading, buttons, the end of the queue, without JavaScript."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from annotate.models import Assignment, Judgement, Verdict
from tests.e2e.judging import (
    ended,
    forgive_the_network,
    judge,
    question,
    queued,
    queued_many,
    ready,
    revisions,
    saved,
    verdict,
)
from tests.factories import PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(quiet_page, log_in, context, labeler):
    """A quiet page of a labeler who is logged in."""
    log_in(context, labeler)
    return quiet_page


class TestJudge:
    def test_takes_a_login_and_three_verdicts(self, quiet_page, live_server, model, labeler):
        page = quiet_page
        for text in ("One?", "Two?", "Three?"):
            queued(model, text)
        page.goto(live_server.url)
        page.get_by_label("Name").fill(labeler.username)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Judge").click()
        # Gone after a full reload.
        page.evaluate("window.stayed = true")

        seen = set()
        for label in (Verdict.LEFT_MUCH.label, Verdict.TIE.label, Verdict.BOTH_BAD.label):
            ready(page)
            seen.add(question(page))
            verdict(page, label).click()

        ended(page)
        saved(page)
        assert seen == {"One?", "Two?", "Three?"}
        assert page.evaluate("window.stayed") is True
        assert {judgement.verdict for judgement in Judgement.objects.all()} == {
            Verdict.LEFT_MUCH, Verdict.TIE, Verdict.BOTH_BAD,
        }  # fmt: skip
        assert all(judgement.active_ms > 0 for judgement in Judgement.objects.all())
        expect(page.locator("[data-today]").last).to_have_text("3 today")

    def test_asks_for_the_next_pair_with_each_judgement(self, page, judge_url, model, quiet):
        queued_many(model, 7)
        page.goto(judge_url)
        quiet()
        asked = []
        page.on("request", lambda request: asked.append(request.post_data or ""))

        for _ in range(4):
            judge(page, "f")
            saved(page)

        assert len(asked) == 4
        assert all("verdict=right" in body and "next=1" in body for body in asked)
        assert Assignment.objects.count() == 7
        assert Assignment.objects.filter(closed_at=None).count() == 3

    @pytest.mark.parametrize("width", [800, 1280, 1920])
    def test_leads_to_writing_a_prompt_beside_guidelines(self, page, judge_url, model, width):
        model.judging_policy.guidelines = "Be strict."
        model.judging_policy.save()
        queued_many(model, 2)
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(judge_url)

        page.get_by_role("link", name="Write a prompt").click(timeout=5000)

        expect(page).to_have_url(re.compile("/judge/prompts/$"))

    def test_holds_two_pairs_that_were_not_seen(self, page, judge_url, model, quiet):
        queued_many(model, 5)

        page.goto(judge_url)
        quiet()

        assert Assignment.objects.count() == 3
        assert page.locator("[data-uuid]").count() == 1

    @pytest.mark.parametrize("gap_ms", [0, 60, 200])
    def test_counts_a_double_click_once(self, page, judge_url, model, gap_ms):
        queued_many(model, 3)
        page.goto(judge_url)
        ready(page)
        box = verdict(page, Verdict.LEFT.label).bounding_box()

        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        page.wait_for_timeout(gap_ms)
        page.mouse.click(box["x"] + 20, box["y"] + 20, click_count=2)

        page.wait_for_timeout(500)
        saved(page)
        assert Judgement.objects.count() == 1

    def test_hints_at_nothing_where_the_pointer_was_left(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        ready(page)
        plain = verdict(page, Verdict.LEFT.label)
        background = plain.evaluate("button => getComputedStyle(button).backgroundColor")

        plain.click()

        ready(page)
        expect(plain).to_have_css("background-color", background)
        page.mouse.move(*[plain.bounding_box()[axis] + 30 for axis in "xy"])
        expect(plain).not_to_have_css("background-color", background)

    def test_moves_focus_to_the_next_prompt_and_says_so(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        ready(page)
        page.evaluate("scrollTo(0, 9999)")

        verdict(page, Verdict.RIGHT.label).press("Enter")

        expect(page.locator("[data-prompt]")).to_be_focused()
        expect(page.locator("[data-said]")).to_contain_text("Right, slightly better")
        assert page.evaluate("scrollY") == 0

    def test_keeps_the_bar_where_it_is(self, page, judge_url, model):
        queued(model, "Short?", "a", "b")
        queued(model, "Long?", "long " * 2000, "b\n\n" * 200)
        queued(model, "Short again?", "c", "d")
        page.goto(judge_url)
        boxes = []
        for _ in range(3):
            ready(page)
            boxes.append(verdict(page, Verdict.TIE.label).bounding_box())
            page.keyboard.press("d")

        assert boxes[0] == boxes[1] == boxes[2]

    def test_shows_the_prompt_in_one_line_while_it_is_scrolled_away(self, page, judge_url, model):
        queued(model, "What was it again?\n\nMore of it.", "long " * 3000, "b")
        page.goto(judge_url)
        line = page.locator("[data-prompt-line]")
        expect(line).to_be_hidden()

        page.mouse.wheel(0, 700)

        expect(line).to_be_visible()
        expect(line).to_have_text("What was it again? More of it.")

    def test_runs_nothing_that_a_model_wrote(self, page, judge_url, model, quiet):
        hostile = (
            "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
            "\n\n[x](javascript:window.hit=1) ![x](https://evil.example/x.png)"
            "\n\n<div hx-get='/admin/' hx-trigger='load' data-do='left'>x</div>"
            "\n\n```html\n<script>window.hit = 1</script>\n```"
        )
        queued(model, hostile, hostile, hostile + " ")
        queued(model, "Next? " + hostile, hostile, hostile + " ")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(judge_url)
        # Also the card that was fetched, and the other views.
        judge(page, "x")
        ready(page)
        page.keyboard.press("v")
        page.keyboard.press("r")
        quiet()

        assert page.evaluate("window.hit") is None
        assert page.locator(".pair :is(script, img, [hx-get], [data-do])").count() == 0
        assert [url for url in asked if "evil.example" in url or "/admin/" in url] == []

    @pytest.mark.parametrize("width", [360, 390])
    def test_fits_a_phone(self, page, judge_url, model, width):
        wide = (
            f"{'x' * 400}\n\n```\n{'y' * 400}\n```\n\n| {'z' * 300} | b |\n| --- | --- |\n| c | d |"
        )
        for text in ("Unbroken" * 50, "Again"):
            queued(model, text, wide, "short")
        page.set_viewport_size({"width": width, "height": 844})

        page.goto(judge_url)

        assert page.evaluate("document.documentElement.scrollWidth") == width
        for button in page.locator(".bar :is(.verdict, .tool)").all():
            box = button.bounding_box()
            assert box["height"] >= 44
            assert box["width"] >= 44
            # Within reach without scrolling.
            assert box["y"] + box["height"] <= 844
        expect(page.get_by_role("link", name="Right is below")).to_be_visible()
        # And with the reasons of a judgement.
        judge(page, "s")
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width

    def test_shows_both_answers_side_by_side_on_a_wide_screen(self, page, judge_url, model):
        queued(model, "Wide?")
        page.set_viewport_size({"width": 2560, "height": 1440})

        page.goto(judge_url)

        left, right = (pane.bounding_box() for pane in page.locator("[data-pane]").all())
        assert left["y"] == right["y"]
        assert left["width"] == right["width"] > 700
        assert page.evaluate("document.documentElement.scrollWidth") == 2560

    def test_reads_from_right_to_left_where_the_text_does(self, page, judge_url, model):
        queued(
            model, "لماذا السماء زرقاء؟", "لأن الهواء يبعثر الضوء الأزرق.", "Because of scattering."
        )
        page.goto(judge_url)

        directions = page.locator(".pane-text p").evaluate_all(
            "all => all.map((one) => getComputedStyle(one).direction)"
        )
        assert sorted(directions) == ["ltr", "rtl"]

    def test_opens_diff_and_raw_and_remembers_which(self, page, judge_url, model):
        queued(model, "**One**?", "It is **one** thing.", "It is **another** thing.")
        queued(model, "Two?", "It is *red*.", "It is *blue*.")
        page.goto(judge_url)
        ready(page)

        page.keyboard.press("r")

        expect(page.locator("[data-pane]").first).to_contain_text("**")
        assert question(page) == "**One**?"
        judge(page, "d")
        ready(page)
        # The next one came as this one was read.
        expect(page.locator("[data-pane]").first).to_contain_text("*")
        page.get_by_role("button", name="Raw").click()
        expect(page.locator("[data-pane] em")).to_have_count(2)
        page.keyboard.press("v")
        expect(page.locator("[data-panes]")).to_have_attribute("data-shown", "diff")
        expect(page.get_by_role("button", name="Diff", exact=True)).to_have_attribute(
            "aria-pressed", "true"
        )

    def test_says_that_another_way_needs_the_connection(
        self, page, judge_url, model, context, complaints
    ):
        queued(model, "One?")
        page.goto(judge_url)
        ready(page)
        context.set_offline(True)

        page.keyboard.press("v")

        expect(page.locator("[data-said]")).to_contain_text("needs the connection")
        expect(page.get_by_role("button", name="Diff", exact=True)).to_have_attribute(
            "aria-pressed", "false"
        )
        forgive_the_network(page, complaints)

    def test_scrolls_the_answers_apart_when_asked(self, page, judge_url, model):
        queued(model, "Long?", "left " * 3000, "right " * 3000)
        page.goto(judge_url)
        ready(page)

        page.keyboard.press("y")
        left, right = page.locator("[data-pane]").all()
        left.focus()
        page.keyboard.press("j")

        page.wait_for_function("document.querySelector('#left').scrollTop > 50")
        assert right.evaluate("pane => pane.scrollTop") == 0
        page.keyboard.press("y")
        page.keyboard.press("j")
        page.wait_for_function("scrollY > 50")


class TestNotes:
    def test_go_out_with_the_verdict(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        ready(page)

        page.keyboard.press("e")
        page.keyboard.type("a good sad fax")
        page.keyboard.press("Control+Enter")
        page.keyboard.press("s")

        ready(page)
        saved(page)
        judgement = Judgement.objects.get()
        assert judgement.note == "a good sad fax"
        assert judgement.verdict == Verdict.LEFT
        expect(page.locator("#note")).to_have_value("")

    def test_stay_when_escape_leads_back(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        ready(page)

        page.keyboard.press("e")
        page.keyboard.type("zxq")
        page.keyboard.press("Escape")

        expect(page.locator("#note")).to_be_hidden()
        assert not Judgement.objects.exists()
        page.keyboard.press("e")
        expect(page.locator("#note")).to_have_value("zxq")
        expect(page.locator("#note")).to_be_focused()

    def test_can_be_written_on_the_last_judgement(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        said = judge(page, "s")

        page.get_by_role("button", name="Note on your last judgement").click()
        page.keyboard.type("because")
        page.keyboard.press("Escape")

        page.wait_for_timeout(1000)
        saved(page)
        last = Judgement.objects.order_by("-pk").first()
        assert (str(last.assignment_id), last.note) == (next(iter(said)), "because")
        expect(page.locator("#note")).to_have_value("")


class TestReasons:
    def test_belong_to_the_judgement_before(self, page, judge_url, model):
        queued_many(model, 3)
        page.goto(judge_url)
        said = judge(page, "s")
        ready(page)

        page.keyboard.press("1")
        page.keyboard.press("3")
        page.keyboard.press("5")
        page.keyboard.press("3")

        page.wait_for_timeout(1000)
        saved(page)
        uuid = next(iter(said))
        last = Judgement.objects.filter(assignment=uuid).latest("revision")
        assert last.reasons == ["correct", "brief"]
        assert last.verdict == Verdict.LEFT
        # Four presses are one revision.
        assert last.revision == 2

    def test_say_why_somebody_cannot_judge(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        ready(page)

        page.keyboard.press("q")
        page.keyboard.press("Escape")
        page.keyboard.press("q")
        page.keyboard.press("a")
        page.keyboard.press("2")

        ready(page)
        saved(page)
        judgement = Judgement.objects.get()
        assert (judgement.verdict, judgement.reasons) == (Verdict.CANNOT_JUDGE, ["broken"])

    def test_are_not_asked_for_where_no_answer_is_better(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        judge(page, "x")
        ready(page)

        chips = page.locator("[data-chips]")
        expect(chips.get_by_role("button")).to_have_text(["Note"])
        page.keyboard.press("1")

        expect(page.locator("[data-said]")).to_contain_text("reasons go with a preference only")
        saved(page)
        assert Judgement.objects.get().reasons == []


class TestLater:
    def test_comes_back_when_nothing_else_waits(self, page, judge_url, model):
        queued_many(model, 3)
        page.goto(judge_url)
        first = ready(page)

        page.keyboard.press("n")
        said = judge(page, "dd")

        assert first not in said
        assert ready(page) == first
        page.keyboard.press("d")
        ended(page)
        saved(page)
        assert Judgement.objects.count() == 3

    @pytest.mark.parametrize("is_offline", [False, True])
    def test_is_taken_up_again_by_an_undo(
        self, page, judge_url, model, context, quiet, complaints, is_offline
    ):
        queued_many(model, 3)
        page.goto(judge_url)
        ready(page)
        quiet()
        (judged,) = judge(page, "s")
        aside = ready(page)
        saved(page)
        context.set_offline(is_offline)

        page.keyboard.press("n")
        ready(page)
        if not is_offline:
            saved(page)
        page.keyboard.press("z")

        assert ready(page) == aside
        expect(page.locator("[data-taken-back]")).to_be_hidden()
        page.keyboard.press("z")
        assert ready(page) == judged
        page.keyboard.press("Shift+z")
        assert ready(page) == aside
        context.set_offline(False)
        saved(page)
        assert revisions(judged)[-1] == "left"
        assert Assignment.objects.get(pk=aside).set_aside_at is None
        forgive_the_network(page, complaints)


class TestTouch:
    @pytest.fixture
    def browser_context_args(self, browser_context_args):
        return browser_context_args | {
            "has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 844},
        }  # fmt: skip

    def test_shows_no_keys(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        first = ready(page)

        verdict(page, Verdict.LEFT.label).tap()

        assert ready(page) != first
        expect(page.locator(".bar kbd").first).to_be_hidden()
        page.get_by_role("button", name="Undo").tap()
        assert ready(page) == first
        verdict(page, Verdict.CANNOT_JUDGE.label).tap()
        page.get_by_role("button", name="Not my field").tap()
        saved(page)


class TestWaiting:
    def test_turns_into_a_pair_by_itself(self, page, judge_url, model):
        page.goto(judge_url)
        expect(page.get_by_role("heading", level=1)).to_have_text("There are no prompts yet")

        queued(model, "Here at last?")

        expect(page.locator("[data-prompt-text]")).to_have_text("Here at last?", timeout=8000)
        expect(page).to_have_title(re.compile("^\\s*Judge"))
        judge(page, "d")
        ended(page)
        expect(page).to_have_title(re.compile("^\\s*Waiting"))

    def test_lets_the_last_one_be_taken_back(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        said = judge(page, "d")
        ended(page)

        page.keyboard.press("z")

        assert ready(page) in said


class TestWithoutJavaScript:
    @pytest.fixture
    def browser_context_args(self, browser_context_args):
        return browser_context_args | {"java_script_enabled": False}

    def test_takes_verdicts_all_the_same(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        first = question(page)
        expect(page.get_by_role("button", name="Raw")).to_be_hidden()

        verdict(page, Verdict.RIGHT_MUCH.label).click()

        assert question(page) != first
        judgement = Judgement.objects.get()
        assert judgement.verdict == Verdict.RIGHT_MUCH

    def test_takes_a_note(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)

        page.locator("summary", has_text="Note").click()
        page.get_by_label("A note on this pair").fill("Both too long.")
        verdict(page, Verdict.TIE.label).click()

        assert Judgement.objects.get().note == "Both too long."

    def test_sets_aside_and_undoes(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        first = question(page)
        verdict(page, Verdict.TIE.label).click()
        second = question(page)
        assert second != first

        page.get_by_role("button", name="Undo").click()

        assert question(page) == first
        expect(page.get_by_role("status").filter(has_text="You took this one back")).to_be_visible()
        page.get_by_role("button", name="Later").click()
        assert question(page) == second
        verdict(page, Verdict.LEFT.label).click()
        assert question(page) == first
        verdict(page, Verdict.RIGHT.label).click()
        # Also when nothing waits any more.
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_role("status").filter(has_text=Verdict.RIGHT.label)).to_be_visible()

    def test_offers_to_reload_while_waiting(self, page, judge_url, model):
        page.goto(judge_url)

        expect(page.get_by_role("link", name="Reload now")).to_be_visible()


class TestColours:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_can_be_read(self, page, judge_url, model, scheme):
        queued(
            model,
            "Colours?",
            "See [a](https://a.example).\n\n> quote\n\n```python\ndef f(): # x\n  return 'y'\n```",
            "b",
        )
        page.emulate_media(color_scheme=scheme)

        for url in (judge_url, judge_url.split("models")[0]):
            page.goto(url)
            assert page.evaluate(CONTRAST) == []


#: Returns the texts whose contrast with what is behind them is below WCAG's 4.5.
CONTRAST = """
() => {
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({ visibilityProperty: true }) || element.closest(":disabled")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color).slice(0, 3)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""
