"""A real Chromium against a real server; every test fails on a content-security violation or a script error."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest
from django.conf import settings
from django.core.signals import request_finished, request_started
from django.test import Client

from tests.factories import PASSWORD, MembershipFactory, RegisteredModelFactory

# Playwright's synchronous interface runs an event loop in this thread; the ORM is used beside it.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    """Start the system's Chromium if there is one, quietly."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    return (
        browser_type_launch_args | {"args": quiet} | ({"executable_path": found} if found else {})
    )


@pytest.fixture(autouse=True)
def all_answered(transactional_db):
    """Let the server end what a closed page had asked, or it and the emptying of the tables wait for each other."""
    counting = threading.Lock()
    under_way, changed = 0, time.monotonic()

    def began(**_):
        nonlocal under_way, changed
        with counting:
            under_way, changed = under_way + 1, time.monotonic()

    def ended(**_):
        nonlocal under_way, changed
        with counting:
            under_way, changed = under_way - 1, time.monotonic()

    request_started.connect(began)
    request_finished.connect(ended)
    yield
    # What the browser sent before it was closed may arrive a moment later. A download that it broke off never ends.
    time.sleep(0.05)
    while under_way > 0 and time.monotonic() < changed + 5:
        time.sleep(0.02)
    request_started.disconnect(began)
    request_finished.disconnect(ended)


@pytest.fixture
def model(transactional_db):
    """A model that is ready."""
    return RegisteredModelFactory()


@pytest.fixture
def labeler(model):
    """A member of the model."""
    return MembershipFactory(model=model).user


@pytest.fixture
def log_in(live_server):
    """Put a session into a browser context without the form."""

    def put(context, user):
        client = Client()
        assert client.login(username=user.username, password=PASSWORD)
        cookie = client.cookies[settings.SESSION_COOKIE_NAME]
        context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": live_server.url}])

    return put


@pytest.fixture
def judge_url(live_server, model):
    """The judging screen of the model."""
    return f"{live_server.url}/models/{model.slug}/judge/"


@pytest.fixture
def complaints():
    """What a page said in its console; a test that expects a complaint clears the list."""
    return []


@pytest.fixture
def quiet(context):
    """Wait until nothing is asked of the server. (A page's load states tell of its first time only.)"""
    asked = set()

    # Playwright takes functions only, no methods of a set.
    def began(request):
        asked.add(request)

    def ended(request):
        asked.discard(request)

    context.on("request", began)
    context.on("requestfinished", ended)
    context.on("requestfailed", ended)

    def waited():
        deadline = time.monotonic() + 30
        last = time.monotonic()
        while time.monotonic() < last + 0.4:
            assert time.monotonic() < deadline, [request.url for request in asked]
            context.pages[-1].wait_for_timeout(50)
            if asked:
                last = time.monotonic()

    return waited


@pytest.fixture
def quiet_page(context, complaints):
    """A page that must not complain in its console."""
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    yield page
    # A page that asks for pairs now and then would hold rows that are about to be emptied.
    for open_page in context.pages:
        open_page.close()
    assert complaints == []
