from __future__ import annotations

import pytest
from django.conf import settings
from django.utils import timezone
from playwright.sync_api import expect

from models_registry import plays
from models_registry.engine.fake import FakeEngine
from models_registry.models import Play
from tests.factories import ModelVersionFactory, ServingFactory, UserFactory

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def engine(model):
    """An engine that serves v0 and v1 of the model."""
    ModelVersionFactory(model=model, adapter=True)
    versions = {version.number: version for version in model.versions.all()}
    for version in versions.values():
        ServingFactory(version=version, engine=settings.ENGINE_URL, loaded_at=timezone.now())
    fake = FakeEngine(base=versions[0].served_name)
    fake.adapters[versions[1].served_name] = "/versions/1"
    return fake


@pytest.fixture
def page(quiet_page, log_in, context, live_server, model, engine):
    """The playground of an admin."""
    log_in(context, UserFactory(is_staff=True, username="ada"))
    quiet_page.goto(f"{live_server.url}/models/{model.slug}/play/")
    return quiet_page


def answer(engine):
    """Do what the worker does."""
    plays.plays_answer(engine=engine, now=timezone.now)


class TestPlay:
    def test_takes_nothing_but_the_keyboard(self, page, engine):
        # The question has the focus already.
        page.keyboard.type("Who sings?")
        page.keyboard.press("Control+Enter")
        expect(page.get_by_text("Both are answering")).to_be_visible()
        page.evaluate("window.stayed = true")

        answer(engine)

        expect(page.get_by_role("heading", name="Left")).to_be_visible()
        assert page.evaluate("window.stayed") is True
        assert page.title().startswith("Question")
        expect(page.locator(".pane-title")).to_have_text(["Left", "Right"])
        page.keyboard.press("g")
        play = Play.objects.get()
        expect(page.locator(".play-said")).to_have_text(
            f"Right was picked: {play.right_version.label}."
        )
        play.refresh_from_db()
        assert play.pick == "right"
        expect(page.locator("#right-title")).to_contain_text(f"{play.right_tokens} tokens")
        page.keyboard.press("n")
        expect(page.get_by_label("Question")).to_be_focused()
        expect(page.get_by_label("Question")).to_have_value("")
        expect(page.locator(".play-row")).to_contain_text("Who sings?")

    def test_stops_asking_once_answered(self, page, engine):
        page.get_by_label("Question").fill("Who?")
        page.get_by_role("button", name="Ask both").click()
        answer(engine)
        expect(page.get_by_role("button", name="Both bad")).to_be_visible()
        asked = []
        page.on("request", lambda request: asked.append(request.url))

        page.wait_for_timeout(3000)

        assert asked == []

    def test_sends_once_however_often_the_keys_are_pressed(self, page):
        page.keyboard.type("Who?")
        page.keyboard.press("Control+Enter")
        page.keyboard.press("Control+Enter")

        expect(page.get_by_text("Both are answering")).to_be_visible()
        assert Play.objects.count() == 1

    def test_types_letters_where_one_types(self, page):
        page.keyboard.type("a grand dance x")

        expect(page.get_by_label("Question")).to_have_value("a grand dance x")


class TestWithoutJavaScript:
    @pytest.fixture(scope="class")
    def browser_context_args(self, browser_context_args):
        return browser_context_args | {"java_script_enabled": False}

    def test_asks_waits_and_picks(self, page, engine):
        page.get_by_label("Question").fill("Who?")
        page.get_by_label("Show names at once").check()
        page.get_by_role("button", name="Ask both").click()
        answer(engine)

        page.get_by_role("link", name="Reload now").click()

        expect(page.locator(".play-version")).to_have_count(2)
        page.get_by_role("button", name="Equally good").click()
        expect(page.locator(".play-said")).to_have_text("Picked: equal.")
