"""Nothing that was said is lost, and nothing is stored twice: without network, server, tab, login or token."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from playwright.sync_api import expect

from annotate.models import Judgement
from models_registry.models import Membership
from tests.e2e.judging import (
    ended,
    forgive_the_network,
    judge,
    queued_many,
    ready,
    revisions,
    saved,
    shown,
    stored,
)
from tests.factories import PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(quiet_page, log_in, context, labeler):
    """A quiet page of a labeler who is logged in."""
    log_in(context, labeler)
    return quiet_page


@pytest.fixture
def sent(page):
    """What was sent so far, as (path, body)."""
    found = []
    page.on(
        "request",
        lambda asked: asked.method == "POST" and found.append((asked.url, asked.post_data)),
    )
    return found


def kept(page):
    """Return how many acts the browser keeps."""
    return page.evaluate(
        "Object.keys(localStorage).filter((key) => key.startsWith('pairloop.outbox')).length"
    )


class TestWithoutNetwork:
    def test_ten_judgements_are_made_and_none_is_lost(
        self, page, context, judge_url, model, complaints, quiet
    ):
        queued_many(model, 12)
        page.goto(judge_url)
        said = {}
        # A page holds three pairs: the network goes four times.
        for keys in ("asd", "fgx", "sdf", "g"):
            ready(page)
            quiet()
            context.set_offline(True)
            said |= judge(page, keys)
            expect(page.locator("[data-outbox]")).to_have_text(f"{len(keys)} waiting to be sent")
            if len(keys) == 3:
                expect(page.get_by_role("heading", level=1)).to_have_text(
                    "The server cannot be reached", timeout=5000
                )
            assert Judgement.objects.count() == len(said) - len(keys)
            context.set_offline(False)
            saved(page)

        assert len(said) == 10
        assert stored() == said
        ready(page)
        forgive_the_network(page, complaints)

    def test_what_was_not_sent_is_just_dropped(
        self, page, context, judge_url, model, complaints, sent, quiet
    ):
        queued_many(model, 4)
        page.goto(judge_url)
        ready(page)
        quiet()
        context.set_offline(True)
        first, second = judge(page, "as")
        page.keyboard.press("z")
        assert ready(page) == second
        page.keyboard.press("g")
        ready(page)
        context.set_offline(False)

        saved(page)
        assert revisions(first) == ["left_much"]
        assert revisions(second) == ["right_much"]
        assert not [url for url, _ in sent if "/undo/" in url]
        forgive_the_network(page, complaints)

    def test_answers_that_got_lost_are_not_stored_twice(self, page, judge_url, model, complaints):
        queued_many(model, 3)
        page.goto(judge_url)
        lost = []

        def lose(route):
            if lost:
                route.fallback()
                return
            # It reaches the server, but the page never hears of it.
            lost.append(route.fetch())
            route.abort()

        page.route(re.compile(r"/judge/[0-9a-f-]{36}/$"), lose)

        said = judge(page, "as")

        saved(page)
        assert lost[0].ok
        assert stored() == said
        forgive_the_network(page, complaints)

    def test_one_pair_that_comes_in_two_answers_does_not_end_the_filling(
        self, page, context, judge_url, model, complaints, quiet
    ):
        queued_many(model, 12)
        page.goto(judge_url)
        ready(page)
        quiet()
        passing, judgements, requests = [], [], []

        def gate(route):
            is_next = route.request.url.endswith("/next/")
            if not passing or (is_next and not judgements):
                route.abort()
            elif is_next and not requests:
                requests.append(route)
            elif not is_next and not judgements:
                judgements.append(route)
            else:
                route.fallback()

        page.route("**/judge/**", gate)
        said = judge(page, "asd")
        expect(page.get_by_role("heading", level=1)).to_have_text("The server cannot be reached")
        passing.append(True)
        # The first judgement asks for a pair; before its answer is here, the page asks for one, too.
        while not (judgements and requests):
            page.wait_for_timeout(20)
        assert "next=1" in judgements[0].request.post_data
        judgements[0].fallback()
        saved(page)
        requests[0].fallback()

        quiet()
        context.set_offline(True)
        said |= judge(page, "fgx")
        context.set_offline(False)
        saved(page)
        assert stored() == said
        forgive_the_network(page, complaints)


class TestAClosedTab:
    def test_is_delivered_at_the_next_visit(
        self, page, context, judge_url, model, complaints, quiet
    ):
        queued_many(model, 5)
        page.goto(judge_url)
        ready(page)
        quiet()
        page.route("**/judge/**", lambda route: route.abort())
        said = judge(page, "asd")
        page.close()
        assert Judgement.objects.count() == 0

        page = context.new_page()
        page.goto(judge_url)

        # Not one of those that were judged, though the server does not know it yet.
        assert ready(page) not in said
        saved(page)
        assert stored() == said
        page.keyboard.press("z")
        page.wait_for_function(
            "uuid => document.querySelector('[data-uuid]')?.dataset.uuid === uuid",
            arg=list(said)[-1],
        )
        forgive_the_network(page, complaints)

    def test_sends_reasons_that_were_just_chosen(self, page, context, judge_url, model):
        queued_many(model, 2)
        page.goto(judge_url)
        said = judge(page, "a")
        ready(page)
        saved(page)
        page.keyboard.press("1")
        page.goto("about:blank")
        page.goto(judge_url)
        ready(page)
        saved(page)

        assert Judgement.objects.filter(assignment=next(iter(said))).latest("revision").reasons == [
            "correct"
        ]


class TestTwoTabs:
    def test_send_in_order_and_nothing_twice(self, page, context, judge_url, model, quiet):
        queued_many(model, 12)
        other = context.new_page()
        page.goto(judge_url)
        ready(page)
        quiet()
        other.goto(judge_url)
        ready(other)

        for key in "asd":
            judge(page, key)
            judge(other, key)

        saved(page)
        saved(other)
        assert 3 <= len(stored()) <= 6

    def test_say_which_judgement_stands(self, page, context, judge_url, model):
        queued_many(model, 1)
        other = context.new_page()
        page.goto(judge_url)
        other.goto(judge_url)
        said = judge(page, "a")
        saved(page)

        judge(other, "g")

        notice = other.locator("[data-troubles]")
        expect(notice).to_contain_text("“Left, much better” of yours stands already")
        assert stored() == said
        # What an undo takes back, here as well; and then there is nothing to be told.
        other.keyboard.press("z")
        expect(other.locator("[data-taken-back]")).to_contain_text("Left, much better")
        expect(notice).to_be_empty()
        ready(other)
        other.keyboard.press("Shift+Z")
        saved(other)
        assert revisions(next(iter(said))) == ["left_much", "", "left_much"]

    def test_change_what_stands(self, page, context, judge_url, model):
        queued_many(model, 1)
        other = context.new_page()
        page.goto(judge_url)
        other.goto(judge_url)
        judge(page, "a")
        saved(page)
        judge(other, "g")

        other.get_by_role("link", name="Change it").click()
        other.get_by_role("button", name="Right is much better").click()
        other.wait_for_load_state()
        assert Judgement.objects.latest("revision").verdict == "right_much"


class TestALogin:
    def test_that_ended_keeps_everything_until_the_next(
        self, page, judge_url, model, labeler, log_in, context, quiet
    ):
        queued_many(model, 5)
        page.goto(judge_url)
        ready(page)
        quiet()
        Session.objects.all().delete()

        said = judge(page, "as")

        notice = page.locator("[data-troubles]")
        expect(notice).to_contain_text("Log in again; 2 judgements are kept here")
        assert Judgement.objects.count() == 0
        page.get_by_role("link", name="Log in again").click()
        page.get_by_label("Name").fill(labeler.username)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        ready(page)
        saved(page)
        assert stored() == said

    def test_in_another_tab_changes_the_token_and_nothing_else(
        self, page, judge_url, model, log_in, context, labeler, complaints
    ):
        queued_many(model, 3)
        page.goto(judge_url)
        ready(page)
        # As a login does: another session, another token.
        context.clear_cookies()
        log_in(context, labeler)

        said = judge(page, "a")

        saved(page)
        assert stored() == said
        forgive_the_network(page, complaints)

    def test_of_somebody_else_sends_nothing_in_their_name(
        self, page, judge_url, model, log_in, context, complaints
    ):
        from tests.factories import MembershipFactory  # noqa: PLC0415

        queued_many(model, 3)
        page.goto(judge_url)
        ready(page)
        context.clear_cookies()
        log_in(context, MembershipFactory(model=model).user)

        judge(page, "a")

        expect(page.locator("[data-troubles]")).to_contain_text("1 judgement is kept here")
        assert Judgement.objects.count() == 0
        forgive_the_network(page, complaints)


class TestRefused:
    def test_for_good_stays_to_be_read(self, page, judge_url, model, labeler, complaints, quiet):
        queued_many(model, 3)
        page.goto(judge_url)
        ready(page)
        quiet()
        Membership.objects.filter(user=labeler).delete()

        judge(page, "a")

        notice = page.locator("[data-troubles]")
        expect(notice).to_contain_text("“Left, much better” was not taken")
        assert kept(page) == 1
        page.get_by_role("button", name="Seen").click()
        expect(notice).to_be_empty()
        assert kept(page) == 0
        forgive_the_network(page, complaints)


class Server:
    """A server in a process of its own, which can be killed."""

    def __init__(self) -> None:
        """Choose a port that is free."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.e2e.running",
            "PAIRLOOP_E2E_DATABASE": str(connection.settings_dict["NAME"]),
            "PAIRLOOP_VAR": str(settings.VAR),
        }
        command = ["manage.py", "runserver", "--noreload", "--insecure", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=2)
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return
        raise TimeoutError("The server did not start.")

    def kill(self) -> None:
        """Kill it in the middle of whatever it does."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(transactional_db):
    """A server that runs."""
    server = Server()
    server.start()
    yield server
    server.kill()


class TestAServer:
    def test_that_is_killed_twice_loses_nothing_and_stores_nothing_twice(
        self, quiet_page, context, server, model, labeler, complaints, quiet
    ):
        queued_many(model, 14)
        client = Client()
        assert client.login(username=labeler.username, password=PASSWORD)
        name = settings.SESSION_COOKIE_NAME
        context.add_cookies(
            [{"name": name, "value": client.cookies[name].value, "url": server.url}]
        )
        page = quiet_page
        page.goto(f"{server.url}/models/{model.slug}/judge/")

        said = judge(page, "as")
        for keys in ("dfg", "xas"):
            ready(page)
            quiet()
            said[shown(page)] = "tie"
            page.keyboard.press("d")
            # While that judgement is on its way.
            server.kill()
            for key in keys:
                said |= judge(page, key) if shown(page) else {}
            page.wait_for_timeout(1500)
            server.start()
            ready(page)
        rest = Judgement.objects.count()
        while page.get_by_role("heading", level=1).inner_text() == "Prompt":
            said |= judge(page, "f")
            page.wait_for_timeout(300)

        ended(page)
        saved(page)
        assert rest < 14
        assert len(said) == 14
        assert stored() == said
        forgive_the_network(page, complaints)
