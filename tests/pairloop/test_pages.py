from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from django.db import OperationalError
from django.test import Client
from django.urls import reverse

from annotate.models import Drop, Split
from models_registry.models import Alias
from pairloop.pages import queries, views
from tests.factories import (
    PASSWORD,
    JudgementFactory,
    MembershipFactory,
    ModelVersionFactory,
    PromptFactory,
    QueueEntryFactory,
    RegisteredModelFactory,
    RoundFactory,
    RoundPolicyFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(client):
    client.force_login(UserFactory(is_staff=True))
    return client


class TestLogin:
    def test_leads_home(self, client):
        user = UserFactory()

        response = client.post(reverse("login"), {"username": user.username, "password": PASSWORD})

        assert response.url == reverse("home")

    def test_leads_to_where_one_was_going(self, client):
        user = UserFactory()
        page = client.get("/models/demo/judge/", follow=True)

        response = client.post(
            reverse("login"),
            {"username": user.username, "password": PASSWORD, "next": page.context["next"]},
        )

        assert response.url == "/models/demo/judge/"

    def test_leads_to_no_other_site(self, client):
        user = UserFactory()

        response = client.post(
            reverse("login"),
            {"username": user.username, "password": PASSWORD, "next": "https://evil.example/"},
        )

        assert response.url == reverse("home")

    def test_says_the_same_about_a_wrong_name_and_a_wrong_password(self, client):
        user = UserFactory()

        pages = [
            client.post(reverse("login"), {"username": name, "password": "wrong"}).text
            for name in (user.username, "nobody")
        ]

        assert all("do not go together" in page for page in pages)

    def test_out_needs_a_post(self, admin):
        assert admin.get(reverse("logout")).status_code == 405
        assert admin.post(reverse("logout")).url == reverse("login")


class TestHome:
    def test_needs_a_login(self, client):
        assert client.get("/").status_code == 302

    def test_shows_a_labeler_their_models_and_what_waits(self, client):
        membership = MembershipFactory(model__name="Mine")
        QueueEntryFactory(pair__prompt__model=membership.model)
        RegisteredModelFactory(name="Somebody else's")
        client.force_login(membership.user)

        page = client.get("/").text

        assert "Mine" in page
        assert "1 pair waits to be judged." in page
        assert reverse("judge", args=[membership.model.slug]) in page
        assert "Somebody else" not in page

    def test_tells_a_labeler_without_models_when_that_changes(self, client):
        client.force_login(UserFactory())

        assert "As soon as an admin adds you" in client.get("/").text

    def test_shows_an_admin_how_far_each_loop_is(self, admin):
        model = RegisteredModelFactory()
        PromptFactory(model=model, split=Split.HOLDOUT)
        QueueEntryFactory(pair__prompt__model=model)
        JudgementFactory(assignment__pair__prompt__model=model)
        Drop.objects.create(version=ModelVersionFactory(model=model), reason="truncated", count=31)

        response = admin.get("/")

        loop = response.context["loops"][0]
        assert [step.figure for step in loop.steps] == ["3", "1", "1", "1", "", "v0"]
        assert "2 to train on, 1 held out" in response.text
        assert "1 pair waits" in loop.next_action
        assert "cut off at the token limit" in response.text
        assert "31" in response.text

    def test_tells_an_admin_without_models_when_that_changes(self, admin):
        assert "registers the first one" in admin.get("/").text

    def test_costs_the_same_number_of_queries_however_much_there_is(
        self, admin, django_assert_max_num_queries
    ):
        model = RegisteredModelFactory()
        for _ in range(5):
            JudgementFactory(assignment__pair__prompt__model=model)

        # Session and user, models, and ten for the one loop.
        with django_assert_max_num_queries(13):
            admin.get("/")

    def test_shows_what_waits_for_the_next_round(self, admin):
        model = RegisteredModelFactory()
        RoundPolicyFactory(model=model, trigger_triples=40)
        JudgementFactory(assignment__pair__prompt__model=model)

        page = admin.get("/")

        assert page.context["loops"][0].steps[3].figure == "1/40"
        assert reverse("rounds", args=[model.slug]) in page.text

    def test_leads_to_the_round_that_is_under_way(self, admin):
        round_ = RoundFactory(state="running")
        PromptFactory(model=round_.model)

        page = admin.get("/")

        assert "Round 1 is under way" in page.text
        assert reverse("round", args=[round_.model.slug, 1]) in page.text


class TestNextAction:
    @pytest.fixture
    def start(self, settings, tmp_path):
        # The only model that a test makes.
        settings.MODELS = ["model-1"]
        RegisteredModelFactory.reset_sequence(1)
        settings.STATUS_FILE = tmp_path / "status.json"
        settings.ENGINE_IS_OURS = True

        def write(**components):
            settings.STATUS_FILE.write_text(json.dumps({"components": components}))

        return write

    def loop(self):
        return queries.loops_of(UserFactory(is_staff=True))[0]

    def test_is_to_read_why_the_model_failed(self, start):
        RegisteredModelFactory(state="failed", failure="No tokenizer.")

        assert "No tokenizer." in self.loop().next_action

    def test_is_to_look_at_a_version_that_samples_and_is_not_champion(self, start):
        model = RegisteredModelFactory()
        PromptFactory(model=model)
        version = ModelVersionFactory(model=model, adapter=True)
        Alias.objects.filter(model=model, name="sampler").update(version=version)

        assert "v1 writes the pairs, v0 is the champion" in self.loop().next_action

    def test_is_to_see_why_a_round_failed(self, start):
        round_ = RoundFactory(state="failed", failure="The disk is full.")
        PromptFactory(model=round_.model)

        assert self.loop().next_action == "Round 1 failed: The disk is full."

    def test_is_to_import_prompts(self, start):
        RegisteredModelFactory()

        assert "Import prompts" in self.loop().next_action

    def test_is_to_repair_the_engine(self, start):
        start(engine={"state": "failed", "detail": "Not enough memory."})
        PromptFactory()

        assert "Not enough memory." in self.loop().next_action

    def test_is_to_judge_even_while_the_engine_is_broken(self, start):
        start(engine={"state": "failed", "detail": "Not enough memory."})
        QueueEntryFactory()

        assert self.loop().next_action == "1 pair waits to be judged."

    def test_is_nothing_while_the_engine_starts(self, start):
        start(engine={"state": "running"})
        PromptFactory()

        assert "the engine is starting" in self.loop().next_action

    def test_is_nothing_while_pairs_are_written(self, start):
        start(engine={"state": "ready"})
        PromptFactory()

        assert "writing new pairs" in self.loop().next_action


class TestHealthz:
    def test_asks_neither_for_a_login_nor_the_database(self, client, django_assert_num_queries):
        with django_assert_num_queries(0):
            response = client.get("/healthz")

        assert (response.status_code, response.text) == (200, "ok\n")


class TestErrorPages:
    def test_say_what_to_do(self, client):
        response = client.get("/nothing-here/")

        assert response.status_code == 404
        assert "There is nothing here" in response.text

    def test_survive_a_broken_view(self, monkeypatch):
        def broken(_user):
            raise RuntimeError

        monkeypatch.setattr("pairloop.pages.queries.desks_of", broken)
        client = Client(raise_request_exception=False)
        client.force_login(UserFactory())

        response = client.get("/")

        assert response.status_code == 500
        assert "Nothing that you did is lost" in response.text


class TestSafety:
    @pytest.mark.parametrize(
        "path", ["/", "/login/", "/healthz", "/readyz", "/nothing/", "/admin/"]
    )
    def test_every_answer_forbids_foreign_scripts(self, client, path):
        policy = client.get(path)["Content-Security-Policy"]

        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy

    def test_htmx_is_told_to_run_nothing(self, client):
        page = client.get("/login/").text
        options = json.loads(
            page.split('name="htmx-config"')[1].split("content='")[1].split("'")[0]
        )

        for name in ("allowEval", "allowScriptTags", "includeIndicatorStyles"):
            assert options[name] is False
        assert options["selfRequestsOnly"] is True
        assert options["historyCacheSize"] == 0

    def test_admin_is_for_staff(self, client):
        client.force_login(UserFactory())

        assert client.get("/admin/").status_code == 302


class TestServerError:
    def test_says_that_the_database_is_away(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.raise_request_exception = False
        monkeypatch.setattr(views.health, "checks", _raise(OperationalError("gone")))
        monkeypatch.setattr(views.health, "database_check", lambda: None)

        answer = client.get("/readyz")

        assert answer.status_code == 503
        assert answer["Retry-After"] == "5"
        assert "does not answer" in answer.content.decode()

    def test_says_so_when_it_is_our_fault(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.raise_request_exception = False
        monkeypatch.setattr(views.health, "database_check", _raise(KeyError("bug")))

        answer = client.get("/readyz")

        assert answer.status_code == 500
        assert "broke on our side" in answer.content.decode()

    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [(OperationalError("gone"), 503, "database_away"), (ValueError("bug"), 500, "error")],
    )
    def test_answers_the_rest_api_in_json(self, rf, fault, status, code):
        try:
            raise fault
        except (OperationalError, ValueError):
            answer = views.server_error(rf.get("/api/v1/models/"))

        assert (answer.status_code, json.loads(answer.content)["code"]) == (status, code)


def _raise(error: Exception) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


class TestApiMissing:
    @pytest.mark.parametrize("method", ["get", "post", "delete"])
    def test_says_so_in_json(self, method):
        client = Client(enforce_csrf_checks=True)

        answer = getattr(client, method)("/api/v1/nowhere/")

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
