from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from annotate.models import Judgement, Verdict
from tests.factories import (
    PASSWORD,
    CompletionFactory,
    PairFactory,
    PromptFactory,
    QueueEntryFactory,
)

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def queued(model, question, *texts):
    """Queue a pair for a question."""
    prompt = PromptFactory(model=model, messages=[{"role": "user", "content": question}])
    first, second = (CompletionFactory(prompt=prompt, text=text) for text in texts or ("a", "b"))
    return QueueEntryFactory(pair=PairFactory(prompt=prompt, first=first, second=second)).pair


def verdict(page, label):
    """Find a verdict's button."""
    return page.get_by_role("button", name=label, exact=True)


@pytest.fixture
def judge_url(live_server, model):
    return f"{live_server.url}/models/{model.slug}/judge/"


@pytest.fixture
def page(quiet_page, log_in, context, labeler):
    """A quiet page of a labeler who is logged in."""
    log_in(context, labeler)
    return quiet_page


def press(page, key):
    """Press a key on a pair that was looked at, and wait for what follows."""
    page.wait_for_timeout(400)
    page.evaluate("document.querySelector('#judge').dataset.before = ''")
    page.keyboard.press(key)
    expect(page.locator("#judge[data-before]")).to_have_count(0)


class TestJudge:
    def test_takes_a_login_and_three_verdicts(self, quiet_page, live_server, model, labeler):
        page = quiet_page
        for question in ("One?", "Two?", "Three?"):
            queued(model, question)
        page.goto(live_server.url)
        page.get_by_label("Name").fill(labeler.username)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Judge").click()
        # Gone after a full reload.
        page.evaluate("window.stayed = true")

        seen = set()
        for label in (Verdict.LEFT_MUCH.label, Verdict.TIE.label, Verdict.BOTH_BAD.label):
            seen.add(page.locator(".prompt-text").inner_text())
            uuid = page.locator("#judge").get_attribute("action")
            # Past the guard against double clicks.
            page.wait_for_timeout(400)
            verdict(page, label).click()
            expect(page.locator(f'#judge[action="{uuid}"]')).to_have_count(0)

        expect(page.get_by_role("heading", level=1)).to_have_text(
            "You have judged everything that waits"
        )
        assert seen == {"One?", "Two?", "Three?"}
        assert page.evaluate("window.stayed") is True
        assert {judgement.verdict for judgement in Judgement.objects.all()} == {
            Verdict.LEFT_MUCH, Verdict.TIE, Verdict.BOTH_BAD,
        }  # fmt: skip
        assert all(judgement.active_ms > 0 for judgement in Judgement.objects.all())

    @pytest.mark.parametrize("gap_ms", [0, 60, 200])
    def test_counts_a_double_click_once(self, page, judge_url, model, gap_ms):
        for question in ("One?", "Two?", "Three?"):
            queued(model, question)
        page.goto(judge_url)
        box = verdict(page, Verdict.LEFT.label).bounding_box()
        first = page.locator(".prompt-text").inner_text()

        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        page.wait_for_timeout(gap_ms)
        page.mouse.click(box["x"] + 20, box["y"] + 20, click_count=2)

        expect(page.locator(".prompt-text")).not_to_have_text(first)
        page.wait_for_timeout(500)
        assert Judgement.objects.count() == 1

    def test_hints_at_nothing_where_the_pointer_was_left(self, page, judge_url, model):
        queued(model, "One?")
        queued(model, "Two?")
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()
        plain = verdict(page, Verdict.LEFT.label)
        background = plain.evaluate("button => getComputedStyle(button).backgroundColor")

        plain.click()

        expect(page.locator(".prompt-text")).not_to_have_text(first)
        # Long enough for the browser to notice what lies under the pointer now.
        page.wait_for_timeout(300)
        expect(plain).to_have_css("background-color", background)
        page.mouse.move(*[plain.bounding_box()[axis] + 30 for axis in "xy"])
        expect(plain).not_to_have_css("background-color", background)

    def test_moves_focus_to_the_next_prompt(self, page, judge_url, model):
        queued(model, "One?")
        queued(model, "Two?")
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()

        verdict(page, Verdict.RIGHT.label).press("Enter")

        expect(page.locator(".prompt-text")).not_to_have_text(first)
        expect(page.locator(".prompt")).to_be_focused()

    def test_says_so_when_a_verdict_did_not_arrive(self, page, judge_url, model, complaints):
        queued(model, "One?", "a", "b")
        page.goto(judge_url)
        page.route("**/judge/*/", lambda route: route.fulfill(status=503))

        verdict(page, Verdict.LEFT.label).click()

        expect(page.get_by_role("alert")).to_contain_text("nothing was recorded")
        expect(verdict(page, Verdict.LEFT.label)).to_be_enabled()
        assert complaints
        complaints.clear()

    def test_runs_nothing_that_a_model_wrote(self, page, judge_url, model):
        hostile = (
            "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
            "\n\n[x](javascript:window.hit=1) ![x](https://evil.example/x.png)"
            "\n\n<div hx-get='/admin/' hx-trigger='load'>x</div>"
            "\n\n```html\n<script>window.hit = 1</script>\n```"
        )
        queued(model, hostile, hostile, hostile + " ")
        queued(model, "Next? " + hostile, hostile, hostile + " ")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()
        verdict(page, Verdict.CANNOT_JUDGE.label).click()
        # Also what htmx swaps in.
        expect(page.locator(".prompt-text")).not_to_have_text(first)

        assert page.evaluate("window.hit") is None
        assert page.locator(".prose script, .prose img, .prose [hx-get]").count() == 0
        assert [url for url in asked if "evil.example" in url or "/admin/" in url] == []

    @pytest.mark.parametrize("width", [360, 390])
    def test_fits_a_phone(self, page, judge_url, model, width):
        wide = (
            f"{'x' * 400}\n\n```\n{'y' * 400}\n```\n\n| {'z' * 300} | b |\n| --- | --- |\n| c | d |"
        )
        queued(model, "Unbroken" * 50, wide, "short")
        page.set_viewport_size({"width": width, "height": 844})

        page.goto(judge_url)

        assert page.evaluate("document.documentElement.scrollWidth") == width
        for button in page.get_by_role(
            "button", name=re.compile("Left|Right|good|bad|judge")
        ).all():
            box = button.bounding_box()
            assert box["height"] >= 44
            assert box["width"] >= 44
            # Within reach without scrolling.
            assert box["y"] + box["height"] <= 844


class TestKeys:
    KEYS = {
        "a": Verdict.LEFT_MUCH,
        "s": Verdict.LEFT,
        "d": Verdict.TIE,
        "f": Verdict.RIGHT,
        "g": Verdict.RIGHT_MUCH,
        "x": Verdict.BOTH_BAD,
        "q": Verdict.CANNOT_JUDGE,
    }

    def test_judge_ten_pairs_with_every_verdict(self, page, judge_url, model):
        for number in range(10):
            queued(model, f"Number {number}?")
        page.goto(judge_url)
        keys = "asdfgxqads"

        for key in keys:
            press(page, key)

        expect(page.get_by_role("heading", level=1)).to_have_text(
            "You have judged everything that waits"
        )
        said = Judgement.objects.order_by("judged_at").values_list("verdict", flat=True)
        assert list(said) == [self.KEYS[key] for key in keys]
        for judgement in Judgement.objects.exclude(winner=None):
            is_left = "left" in judgement.verdict
            lease = judgement.assignment
            assert judgement.winner_id == (lease.left if is_left else lease.right).pk

    def test_bring_the_last_pair_back(self, page, judge_url, model):
        queued(model, "One?")
        queued(model, "Two?")
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()
        sides = page.locator(".pane-text").all_inner_texts()
        press(page, "a")

        press(page, "z")

        expect(page.locator(".prompt-text")).to_have_text(first)
        assert page.locator(".pane-text").all_inner_texts() == sides
        expect(page.get_by_role("status")).to_contain_text(
            f"You had said: {Verdict.LEFT_MUCH.label}."
        )
        press(page, "g")
        press(page, "d")
        # Also when nothing waits any more.
        press(page, "z")
        press(page, "z")
        expect(page.locator(".prompt-text")).to_have_text(first)
        assert list(Judgement.objects.order_by("pk").values_list("verdict", flat=True)) == [
            "left_much", "", "right_much", "tie", "", "",
        ]  # fmt: skip

    def test_undo_at_once_but_judge_nothing_unread(self, page, judge_url, model):
        queued(model, "One?")
        queued(model, "Two?")
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()
        # Pressed in the moment in which the next pair is painted.
        page.evaluate(
            """() => document.body.addEventListener("htmx:afterSettle", () => {
              for (const key of ["d", "z"]) {
                document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
              }
            }, { once: true })"""
        )

        page.keyboard.press("a")

        expect(page.get_by_role("status")).to_contain_text("You took this one back")
        expect(page.locator(".prompt-text")).to_have_text(first)
        assert not Judgement.objects.filter(verdict="tie").exists()

    @pytest.mark.parametrize(
        "chord", ["Control+x", "Shift+A", "Alt+d", "Meta+g", "w", "Enter", "1"]
    )
    def test_leave_other_keys_alone(self, page, judge_url, model, chord):
        queued(model, "One?")
        page.goto(judge_url)

        page.keyboard.press(chord)
        page.wait_for_timeout(200)

        assert not Judgement.objects.exists()

    def test_are_letters_in_a_text_field(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        page.evaluate("document.querySelector('.panes').append(document.createElement('textarea'))")

        page.locator("textarea").press_sequentially("as good as")

        expect(page.locator("textarea")).to_have_value("as good as")
        assert not Judgement.objects.exists()

    def test_count_once_while_held_down(self, page, judge_url, model):
        for question in ("One?", "Two?", "Three?"):
            queued(model, question)
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()

        # Playwright repeats a key that is down already.
        for _ in range(20):
            page.keyboard.down("s")
            page.wait_for_timeout(30)
        page.keyboard.up("s")

        expect(page.locator(".prompt-text")).not_to_have_text(first)
        page.wait_for_timeout(300)
        assert Judgement.objects.count() == 1

    def test_count_once_while_a_vote_is_under_way(self, page, judge_url, model):
        for question in ("One?", "Two?", "Three?"):
            queued(model, question)
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()
        held = []

        def hold(route):
            held.append(route)

        page.route("**/judge/*/", hold)

        for key in "sdfgxqz":
            page.keyboard.press(key)
        expect(verdict(page, Verdict.LEFT.label)).to_be_disabled()
        (only,) = held
        only.continue_()

        expect(page.locator(".prompt-text")).not_to_have_text(first)
        page.wait_for_timeout(300)
        assert Judgement.objects.get().verdict == Verdict.LEFT

    def test_go_by_place_where_there_are_no_such_letters(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)

        page.evaluate(
            """() => document.body.dispatchEvent(
              new KeyboardEvent("keydown", { key: "\u0444", code: "KeyA", bubbles: true }))"""
        )

        expect(page.locator(".prompt-text")).to_have_count(0)
        assert Judgement.objects.get().verdict == Verdict.LEFT_MUCH

    def test_are_on_the_buttons(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)

        for key, choice in self.KEYS.items():
            button = verdict(page, choice.label)
            expect(button).to_have_attribute("aria-keyshortcuts", key.upper())
            expect(button.locator("kbd")).to_be_visible()
            expect(button.locator("kbd")).to_have_text(key.upper())


class TestTouch:
    @pytest.fixture
    def browser_context_args(self, browser_context_args):
        return browser_context_args | {
            "has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 844},
        }  # fmt: skip

    def test_shows_no_keys(self, page, judge_url, model):
        queued(model, "One?")
        queued(model, "Two?")
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()

        verdict(page, Verdict.LEFT.label).tap()

        expect(page.locator(".prompt-text")).not_to_have_text(first)
        expect(page.locator("kbd").first).to_be_hidden()
        page.wait_for_timeout(400)
        page.get_by_role("button", name="Undo").tap()
        expect(page.locator(".prompt-text")).to_have_text(first)


class TestWaiting:
    def test_turns_into_a_pair_by_itself(self, page, judge_url, model):
        page.goto(judge_url)
        expect(page.get_by_role("heading", level=1)).to_have_text("There are no prompts yet")

        queued(model, "Here at last?")

        expect(page.locator(".prompt-text")).to_have_text("Here at last?", timeout=6000)
        expect(page).to_have_title(re.compile("^Judge"))


class TestWithoutJavaScript:
    @pytest.fixture
    def browser_context_args(self, browser_context_args):
        return browser_context_args | {"java_script_enabled": False}

    def test_takes_verdicts_all_the_same(self, page, judge_url, model):
        queued(model, "One?")
        queued(model, "Two?")
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()

        verdict(page, Verdict.RIGHT_MUCH.label).click()

        expect(page.locator(".prompt-text")).not_to_have_text(first)
        assert Judgement.objects.get().verdict == Verdict.RIGHT_MUCH

    def test_undoes_all_the_same(self, page, judge_url, model):
        queued(model, "One?")
        queued(model, "Two?")
        page.goto(judge_url)
        first = page.locator(".prompt-text").inner_text()
        verdict(page, Verdict.TIE.label).click()
        expect(page.locator(".prompt-text")).not_to_have_text(first)

        page.get_by_role("button", name="Undo").click()

        expect(page.locator(".prompt-text")).to_have_text(first)
        expect(page.get_by_role("status")).to_contain_text("You took this one back")
        verdict(page, Verdict.LEFT.label).click()
        verdict(page, Verdict.RIGHT.label).click()
        # Also when nothing waits any more.
        page.get_by_role("button", name="Undo my last judgement").click()
        expect(page.get_by_role("status")).to_contain_text(Verdict.RIGHT.label)

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
    if (!text || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color).slice(0, 3)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""
