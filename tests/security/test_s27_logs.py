"""S27: whatever people and models write, it does not get into the logs, and no line of a log can be forged."""

from __future__ import annotations

import io
import json
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotate import judging, tasks
from annotate.models import Prompt, Split
from models_registry import serving
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import EngineFailed, EngineRejected
from pairloop.accounts import actions
from pairloop.lib import logs
from tests import factories
from tests.annotate.test_tasks import run_worker

#: Each stands for something that somebody else must not read in a log.
MARKS = {
    name: f"hush-{name}-7f3a"
    for name in (
        "prompt", "completion", "note", "tag", "password", "token", "query", "path", "name", "error", "engine",
    )
}  # fmt: skip


class Log(io.StringIO):
    """What was logged, in one of the two forms."""

    def lines(self) -> list[str]:
        """Return its lines."""
        return self.getvalue().splitlines()

    def records(self) -> list[dict[str, object]]:
        """Return the lines of JSON."""
        return [json.loads(line) for line in self.lines()]


@contextmanager
def logged(*, is_terminal: bool = False) -> Iterator[Log]:
    """Log as the product does, into memory."""
    log = Log()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logs.formatter(is_terminal=is_terminal))
    handler.addFilter(logs.TextHidden())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield log
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@pytest.fixture(params=[False, True], ids=["json", "terminal"])
def log(request) -> Iterator[Log]:
    """The product's log, in both forms."""
    with logged(is_terminal=request.param) as log:
        yield log


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    fake = FakeEngine()

    @contextmanager
    def opened(**_: object) -> Iterator[FakeEngine]:
        yield fake

    monkeypatch.setattr(serving, "engine", opened)
    return fake


def has_no_mark(log: Log, *others: str) -> None:
    """Check that something was logged, and nothing that should not be."""
    text = log.getvalue()
    assert text
    for mark in (*MARKS.values(), *others):
        assert mark not in text, mark


@pytest.mark.django_db
class TestPagesAndApi:
    def test_leave_no_text_of_people(self, log):
        model = factories.RegisteredModelFactory.create()
        labeler = factories.MembershipFactory.create(model=model).user
        pair = factories.PairFactory.create(
            prompt__model=model,
            prompt__messages=[{"role": "user", "content": MARKS["prompt"]}],
        )
        type(pair.first).objects.all().update(text=MARKS["completion"])
        factories.QueueEntryFactory.create(pair=pair)
        client = Client(raise_request_exception=False)

        client.post("/login/", {"username": MARKS["name"], "password": MARKS["password"]})
        client.post("/login/", {"username": labeler.username, "password": factories.PASSWORD})
        session = client.cookies["sessionid"].value
        page = client.get(f"/models/{model.slug}/judge/?q={MARKS['query']}")
        assert MARKS["prompt"] in page.text
        lease = page.context["card"].assignment.uuid
        client.get(f"/{MARKS['path']}/?q={MARKS['query']}")
        client.post(f"/models/{model.slug}/judge/{lease}/", {"verdict": MARKS["note"]})
        for body in ({"verdict": MARKS["note"]}, {"verdict": "left", "note": MARKS["note"]}):
            client.post(
                f"/api/v1/assignments/{lease}/judgement/", body, content_type="application/json"
            )
        client.get(
            f"/api/v1/{MARKS['path']}/", headers={"authorization": f"Token {MARKS['token']}"}
        )
        client.get("/api/v1/models/", headers={"authorization": f"Token {MARKS['token']}"})

        admin = Client(raise_request_exception=False)
        admin.force_login(factories.UserFactory.create(is_staff=True, is_superuser=True))
        for body in (
            [
                {"prompt": MARKS["prompt"], "tags": [MARKS["tag"]]},
                {"prompt": 7, "tags": MARKS["tag"]},
            ],
            f'[{{"prompt": "{MARKS["prompt"]}"',
        ):
            admin.post(
                f"/api/v1/models/{model.slug}/prompts/", body, content_type="application/json"
            )
        admin.get(f"/admin/annotate/prompt/?q={MARKS['query']}")

        has_no_mark(log, session, factories.PASSWORD)

    def test_leave_no_text_in_errors(self, log, monkeypatch):
        def broken(_user: object) -> None:
            try:
                {}[MARKS["prompt"]]
            except KeyError as error:
                raise ValueError(MARKS["error"]) from error

        monkeypatch.setattr("pairloop.pages.queries.desks_of", broken)
        client = Client(raise_request_exception=False)
        client.force_login(factories.UserFactory.create())

        assert client.get(f"/?q={MARKS['query']}").status_code == 500

        has_no_mark(log)
        assert "builtins.ValueError" in log.getvalue()
        # Where it happened is what one needs.
        assert "test_s27_logs.py" in log.getvalue()

    def test_leave_no_row_that_the_database_refused(self, log):
        prompt = factories.PromptFactory.create()
        row = {"split": "neither", "messages": [{"role": "user", "content": MARKS["prompt"]}]}

        with pytest.raises(DatabaseError, match=MARKS["prompt"]) as caught, transaction.atomic():
            Prompt.objects.filter(pk=prompt.pk).update(**row)
        logging.getLogger("annotate").error("an import stopped", exc_info=caught.value)
        logging.getLogger("annotate").warning("an import stopped: %s", caught.value)

        has_no_mark(log)
        assert "prompt_split" in log.getvalue()

    def test_tell_who_asked_what_and_how_it_went(self):
        user = factories.UserFactory.create()
        client = Client()
        client.force_login(user)

        with logged() as log:
            client.get("/", REMOTE_ADDR="192.0.2.7")
            client.get("/nothing/here/")
            client.get("/healthz")

        first, second = [line for line in log.records() if line["logger"] == "pairloop.request"]
        told = {"method": "GET", "route": "home", "status": 200, "user_id": user.pk}
        assert first.items() >= (told | {"client": "192.0.2.7", "level": "info"}).items()
        assert len(first["request_id"]) == 32
        assert first["ms"] >= 0
        assert (second["route"], second["status"]) == ("unknown", 404)
        assert second["request_id"] != first["request_id"]

    def test_tell_whose_token_asked(self):
        user = factories.UserFactory.create(is_staff=True)
        _, secret = actions.token_create(
            user=user, name="scripts", days=1, is_read_only=False, now=timezone.now()
        )
        asked = {"headers": {"authorization": f"Token {secret}"}}
        Client().get("/api/v1/models/", **asked)

        with logged() as log, CaptureQueriesContext(connection) as statements:
            assert Client().get("/api/v1/models/", **asked).status_code == 200

        (line,) = [line for line in log.records() if line["logger"] == "pairloop.request"]
        assert line["user_id"] == user.pk
        # The token with its user, the limit, and the models: nothing for the log.
        assert not any("FROM auth_user" in one["sql"] for one in statements)

    def test_tell_of_a_foreign_host_in_one_warning(self, log):
        Client().get(f"/?q={MARKS['query']}", headers={"host": "evil.example"})

        (line,) = [line for line in log.lines() if "evil.example" in line]
        assert "warning" in line
        assert "PAIRLOOP_HOSTS" in line
        assert "Traceback" not in log.getvalue()
        assert "trace" not in log.getvalue()
        assert "error" not in log.getvalue()
        has_no_mark(log)


@pytest.mark.django_db(transaction=True)
class TestWorker:
    def test_leaves_no_text_of_models(self, no_jobs, log, engine):
        model = factories.RegisteredModelFactory.create(judging_policy__queue_target=2)
        factories.PromptFactory.create(
            model=model,
            split=Split.TRAIN,
            messages=[{"role": "user", "content": MARKS["prompt"]}],
            tags=[MARKS["tag"]],
        )
        version = model.versions.get()
        engine.adapters[version.served_name] = "/versions/0"
        engine.enqueue(
            [f"{MARKS['completion']} {number}" for number in range(4)],
            EngineFailed(f"The engine answered 500: {MARKS['engine']}"),
            EngineRejected(f"The engine answered 400: {MARKS['engine']}"),
        )

        for _ in range(3):
            tasks.pairs_top_up.defer()
            run_worker()

        has_no_mark(log)

    def test_puts_the_jobs_id_on_its_lines(self, no_jobs, monkeypatch):
        def noisy(**_: object) -> int:
            logging.getLogger("annotate").warning("released")
            raise ValueError(MARKS["error"])

        monkeypatch.setattr(judging, "leases_release", noisy)
        factories.RegisteredModelFactory.create()
        number = tasks.leases_release.defer()

        with logged() as log:
            run_worker()

        released = [line for line in log.records() if line["event"] == "released"]
        # The schedule may have added one of its own.
        assert number in {line["job_id"] for line in released}
        line = released[0]
        assert line["task"] == "annotate.tasks.leases_release"
        has_no_mark(log)


class TestForgery:
    FORGED = 'in\n{"event": "forged"}\r\x1b[2Kgone\u2028x\x85y'

    def test_adds_no_line(self, log):
        logging.getLogger("annotate").warning("a name: %s", self.FORGED)
        logging.getLogger("annotate").warning(self.FORGED)

        assert len(log.lines()) == 2
        assert "\x1b" not in log.getvalue()

    @pytest.mark.django_db
    def test_adds_no_line_by_a_request(self, log):
        client = Client(raise_request_exception=False)

        client.get("/%0A%7B%22event%22%3A%22forged%22%7D/")
        client.get("/", headers={"host": 'x\n{"event":"forged"}'})
        client.generic('GET\n{"event":"forged"}', "/")
        client.post("/login/", {"username": self.FORGED, "password": "x"})

        assert not any(
            line.startswith(('{"event": "forged', '{"event":"forged')) for line in log.lines()
        )


class TestGunicorn:
    @pytest.mark.parametrize(
        ("words", "arguments"),
        [
            ("Error handling request %s %s", ("GET", f"/?q={MARKS['query']}")),
            (f"Invalid request from ip=192.0.2.1: {MARKS['path']}", ()),
            ("Booting worker with pid: %s", (7,)),
        ],
    )
    def test_says_no_more_than_that_it_happened(self, log, words, arguments):
        logging.getLogger("gunicorn.error").error(words, *arguments)

        has_no_mark(log)
        assert words.partition(" %s")[0][:15] in log.getvalue()


class TestSettings:
    def test_send_every_logger_to_the_same_lines(self):
        made = settings.LOGGING

        assert set(made["handlers"]) == {"console"}
        assert all(not logger.get("handlers") for logger in made["loggers"].values())
        assert made["handlers"]["console"]["filters"] == ["text"]
