"""Keys of the judging screen: every one of them, presets, and what they must not do."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from annotate.models import Judgement, Verdict
from tests.e2e.judging import (
    KEYS,
    ended,
    judge,
    queued,
    queued_many,
    ready,
    revisions,
    saved,
    shown,
    stored,
    verdict,
)

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]


@pytest.fixture
def page(quiet_page, log_in, context, labeler):
    """A quiet page of a labeler who is logged in."""
    log_in(context, labeler)
    return quiet_page


def preset_choose(page, label):
    """Choose other keys."""
    page.get_by_role("button", name="Keys").click()
    page.get_by_label(label).check()
    page.get_by_role("button", name="Close").click()


class TestASession:
    def test_of_thirty_pairs_by_keyboard_alone(self, page, judge_url, model):
        queued_many(model, 30)
        page.goto(judge_url)

        said = judge(page, "asdfgx" * 5)

        ended(page)
        saved(page)
        assert len(said) == 30
        assert stored() == said
        for judgement in Judgement.objects.exclude(winner=None):
            lease = judgement.assignment
            is_left = "left" in judgement.verdict
            assert judgement.winner_id == (lease.left if is_left else lease.right).pk
        assert set(Judgement.objects.values_list("input", flat=True)) == {"key"}
        assert all(
            judgement.shown_at < judgement.judged_at for judgement in Judgement.objects.all()
        )
        expect(page.locator("[data-today]").last).to_have_text("30 today")


class TestUndo:
    def test_goes_three_back_and_repeats(self, page, judge_url, model):
        queued_many(model, 6)
        page.goto(judge_url)
        said = judge(page, "asdf")
        saved(page)
        uuids = list(said)
        current = ready(page)

        for uuid in reversed(uuids[1:]):
            page.keyboard.press("z")
            assert shown(page) == uuid
            expect(page.locator("[data-taken-back]")).to_be_visible()
            expect(page.locator(".verdict.is-said")).to_have_attribute("value", said[uuid])

        ready(page)
        page.keyboard.press("g")
        for uuid in uuids[2:]:
            assert ready(page) == uuid
            page.keyboard.press("Shift+Z")
        assert ready(page) == current
        expect(page.locator("[data-taken-back]")).to_be_hidden()
        saved(page)
        assert [revisions(uuid) for uuid in uuids] == [
            ["left_much"],
            ["left", "", "right_much"],
            ["tie", "", "tie"],
            ["right", "", "right"],
        ]
        expect(page.locator("[data-today]").last).to_have_text("4 today")

    def test_works_at_once_but_judges_nothing_unread(self, page, judge_url, model):
        queued_many(model, 3)
        page.goto(judge_url)
        first = ready(page)
        page.evaluate(
            """() => {
              for (const code of ["KeyA", "KeyD", "KeyZ"]) {
                document.body.dispatchEvent(new KeyboardEvent("keydown", { key: code.at(-1), code, bubbles: true }));
              }
            }"""
        )

        assert ready(page) == first
        saved(page)
        assert not Judgement.objects.filter(verdict="tie").exists()

    def test_goes_on_after_a_reload(self, page, judge_url, model):
        queued_many(model, 4)
        page.goto(judge_url)
        said = judge(page, "sfg")
        saved(page)
        page.reload()
        ready(page)

        for uuid in reversed(said):
            page.keyboard.press("Control+z")
            page.wait_for_function(
                "uuid => document.querySelector('[data-ready] [data-uuid]')?.dataset.uuid === uuid",
                arg=uuid,
            )
            page.wait_for_timeout(100)

        expect(page.get_by_role("button", name="Undo")).to_be_disabled()
        page.keyboard.press("Shift+Z")
        ready(page)
        saved(page)
        assert [revisions(uuid) for uuid in said] == [
            ["left", "", "left"], ["right", ""], ["right_much", ""],
        ]  # fmt: skip


class TestKeys:
    @pytest.mark.parametrize(
        "chord", ["Control+x", "Shift+A", "Alt+d", "Meta+g", "w", "Enter", "1", "Backspace"]
    )
    def test_leave_other_keys_alone(self, page, judge_url, model, chord):
        queued(model, "One?")
        page.goto(judge_url)
        ready(page)

        page.keyboard.press(chord)
        page.wait_for_timeout(200)

        assert not Judgement.objects.exists()

    def test_count_once_while_held_down(self, page, judge_url, model):
        queued_many(model, 3)
        page.goto(judge_url)
        ready(page)

        # Playwright repeats a key that is down already.
        for _ in range(20):
            page.keyboard.down("s")
            page.wait_for_timeout(40)
        page.keyboard.up("s")

        saved(page)
        assert Judgement.objects.count() == 1

    def test_count_once_when_pressed_twice(self, page, judge_url, model):
        queued_many(model, 3)
        page.goto(judge_url)
        first = ready(page)

        page.keyboard.press("s")
        page.keyboard.press("s")

        assert ready(page) != first
        saved(page)
        assert Judgement.objects.count() == 1

    def test_do_nothing_while_the_list_of_keys_is_open(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        ready(page)

        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("Left is much better")
        page.keyboard.press("a")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()

        page.wait_for_timeout(200)
        assert not Judgement.objects.exists()

    def test_count_by_place(self, page, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        ready(page)

        # As on a French keyboard, where Q is printed on the place of A.
        page.evaluate(
            """() => document.body.dispatchEvent(
              new KeyboardEvent("keydown", { key: "q", code: "KeyA", bubbles: true }))"""
        )

        ready(page)
        saved(page)
        assert Judgement.objects.get().verdict == Verdict.LEFT_MUCH
        button = verdict(page, Verdict.LEFT_MUCH.label)
        expect(button.locator("kbd")).to_have_text("Q")
        expect(button).to_have_attribute("aria-keyshortcuts", "Q")

    def test_are_on_the_buttons(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)

        for key, choice in KEYS.items():
            button = verdict(page, choice.label)
            expect(button).to_have_attribute("aria-keyshortcuts", key.upper())
            expect(button.locator("kbd")).to_be_visible()
            expect(button.locator("kbd")).to_have_text(key.upper())

    def test_unfold_what_came_before_and_the_guidelines(self, page, judge_url, model):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}]
        queued(model, "", messages=messages)
        page.goto(judge_url)
        ready(page)

        page.keyboard.press("h")
        expect(page.get_by_text("Be brief.")).to_be_visible()
        page.keyboard.press("i")
        expect(page.get_by_text("Prefer the answer that helps more.")).to_be_visible()
        page.keyboard.press("h")
        expect(page.get_by_text("Be brief.")).to_be_hidden()

    def test_raise_a_flag(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        ready(page)

        with page.expect_response("**/flag/") as answered:
            page.keyboard.press("b")

        assert answered.value.request.post_data == "is_raised=1"
        expect(page.get_by_role("button", name="Flag")).to_have_attribute("aria-pressed", "true")


class TestPresets:
    def test_arrows(self, page, judge_url, model):
        queued_many(model, 6)
        page.goto(judge_url)
        preset_choose(page, "Arrows")
        # Also the next time.
        page.reload()
        expected = {}
        for key, choice in {
            "Shift+ArrowLeft": Verdict.LEFT_MUCH,
            "ArrowLeft": Verdict.LEFT,
            "ArrowUp": Verdict.TIE,
            "ArrowRight": Verdict.RIGHT,
            "Shift+ArrowRight": Verdict.RIGHT_MUCH,
            "ArrowDown": Verdict.BOTH_BAD,
        }.items():
            expected[ready(page)] = choice
            page.keyboard.press("a")
            page.keyboard.press(key)

        ended(page)
        saved(page)
        assert stored() == expected

    def test_numbers_leave_no_digits_to_the_reasons(self, page, judge_url, model):
        queued_many(model, 3)
        page.goto(judge_url)
        preset_choose(page, "Numbers")
        first = ready(page)
        page.keyboard.press("2")
        second = ready(page)
        expect(page.locator("[data-chips] kbd").first).to_be_hidden()
        page.keyboard.press("0")

        ready(page)
        page.get_by_role("button", name="Undo").click()
        assert ready(page) == second
        saved(page)
        assert revisions(first) == ["left"]

    def test_none_at_all(self, page, judge_url, model):
        queued(model, "One?")
        page.goto(judge_url)
        preset_choose(page, "None")
        ready(page)

        for key in "asdfgxqzebnvryhijk1?":
            page.keyboard.press(key)

        page.wait_for_timeout(300)
        assert not Judgement.objects.exists()
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert page.locator("[aria-keyshortcuts]").count() == 0
        verdict(page, Verdict.TIE.label).click()
        ended(page)
        saved(page)
        assert Judgement.objects.get().input == "button"
