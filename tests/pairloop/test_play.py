from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotate.prompts import LARGEST
from models_registry.models import Alias, ModelVersion, Play
from pairloop.pages.play_views import PAGE
from tests.factories import (
    MembershipFactory,
    ModelVersionFactory,
    PlayFactory,
    RegisteredModelFactory,
    ServingFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db

#: What only the versions of an answer could have in common with a page: their links.
V1, V0 = "/models/demo/versions/1/", "/models/demo/versions/0/"


@pytest.fixture
def ada(client: Client, no_jobs: None):
    admin = UserFactory(is_staff=True, username="ada")
    client.force_login(admin)
    return admin


@pytest.fixture
def version() -> ModelVersion:
    return ModelVersionFactory(adapter=True, model__slug="demo", model__name="Demo")


@pytest.fixture
def starting(settings, tmp_path):
    """Let the supervisor say how far the engine is."""
    settings.STATUS_FILE = tmp_path / "status.json"

    def say(state: str, detail: str = "") -> None:
        engine = {"state": state, "detail": detail, "since": time.time(), "expected_s": 40}
        settings.STATUS_FILE.write_text(json.dumps({"components": {"engine": engine}}))

    return say


def asked(version: ModelVersion, by, **fields: Any) -> Play:
    """Make a question to v1, on the left, and v0."""
    return PlayFactory(model=version.model, asked_by=by, left_version=version, **fields)


def loaded(version: ModelVersion, settings) -> None:
    for one in version.model.versions.all():
        ServingFactory(version=one, engine=settings.ENGINE_URL, loaded_at=timezone.now())


def ask(client: Client, **changes: Any):
    data = {"uuid": str(uuid4()), "prompt": "Who sings?", "system": "", "first": 1, "second": 0}
    return client.post(reverse("playground", args=["demo"]), data | changes)


def look(client: Client, play: Play, *, seen: str | None = None):
    url = reverse("play", args=["demo", play.pk])
    if seen is None:
        return client.get(url)
    return client.get(url, {"seen": seen}, headers={"HX-Request": "true"})


def pick(client: Client, play: Play, value: str):
    return client.post(reverse("play-pick", args=["demo", play.pk]), {"pick": value})


class TestAccess:
    def test_is_hidden_from_labelers_and_across_models(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        play = asked(version, ada, answered=True)
        RegisteredModelFactory(slug="other")
        paths = [f"play/{play.pk}/", f"play/{play.pk}/pick/"]

        assert [client.get(f"/models/other/{path}").status_code for path in paths] == [404, 404]
        client.force_login(MembershipFactory(model=version.model).user)
        for path in ["play/", *paths]:
            assert client.get(f"/models/demo/{path}").status_code == 404
            assert client.post(f"/models/demo/{path}", {"pick": "left"}).status_code in {404, 405}
        assert client.get("/models/demo/judge/").status_code == 200
        assert "/play/" not in client.get("/models/demo/judge/").text
        play.refresh_from_db()
        assert play.pick == ""


class TestPlayground:
    def test_offers_the_default_two(self, client: Client, ada, version: ModelVersion) -> None:
        Alias.objects.filter(model=version.model, name="sampler").update(version=version)

        page = client.get("/models/demo/play/")

        form = page.context["form"]
        assert (form["first"].value(), form["second"].value()) == (1, 0)
        assert "v1, sampler" in page.text
        assert "v0, champion" in page.text
        assert "never train a version and never decide anything" in page.text
        assert 'aria-current="page">Play</a>' in " ".join(page.text.split())

    def test_asks_and_shows_the_question(self, client: Client, ada, version: ModelVersion) -> None:
        answer = ask(client, system="Be brief.")

        play = Play.objects.get()
        assert answer.url == reverse("play", args=["demo", play.pk])
        assert (play.system, play.question, play.asked_by) == ("Be brief.", "Who sings?", ada)
        assert play.is_blind
        # As the pairs are drawn that labelers judge.
        assert play.sampling == {"temperature": 1.0, "top_p": 0.95, "max_tokens": 128}

    def test_asks_once_when_sent_twice(self, client: Client, ada, version: ModelVersion) -> None:
        uuid = str(uuid4())

        assert ask(client, uuid=uuid).url == ask(client, uuid=uuid).url

        assert Play.objects.count() == 1

    def test_gives_another_text_another_id(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        uuid = str(uuid4())
        ask(client, uuid=uuid)

        answer = ask(client, uuid=uuid, prompt="Another?")

        assert answer.status_code == 409
        assert "Another?" in answer.text
        assert ask(client, uuid=answer.context["uuid"], prompt="Another?").status_code == 302

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"prompt": " "}, "Type a question first."),
            ({"prompt": "a" * (LARGEST + 1)}, "at most 32 kB"),
            ({"prompt": "é" * LARGEST}, "at most 32 kB"),
            ({"first": 9}, "Choose a version of the list."),
            ({"uuid": "x"}, "Send it once more"),
        ],
    )
    def test_says_what_is_wrong_and_keeps_what_was_typed(
        self, client: Client, ada, version: ModelVersion, changes, sentence
    ) -> None:
        answer = ask(client, **({"system": "Be brief."} | changes))

        assert answer.status_code == 422
        assert sentence in answer.text
        assert "Be brief." in answer.text
        assert not Play.objects.exists()

    def test_refuses_one_version_twice(self, client: Client, ada, version: ModelVersion) -> None:
        answer = ask(client, second=1)

        assert answer.status_code == 409
        assert "Choose two different versions" in answer.text
        assert "Who sings?" in answer.text

    def test_refuses_the_sixth_that_waits(self, client: Client, ada, version: ModelVersion) -> None:
        for _ in range(5):
            assert ask(client).status_code == 302

        answer = ask(client)

        assert answer.status_code == 409
        assert "Five of your questions wait" in answer.text

    def test_says_what_to_do_when_there_is_only_the_base(self, client: Client, ada) -> None:
        RegisteredModelFactory(slug="demo")

        page = client.get("/models/demo/play/").text

        assert "There is only v0 so far" in page
        assert reverse("rounds", args=["demo"]) in page
        assert "<textarea" not in page

    def test_says_why_there_is_no_version(self, client: Client, ada) -> None:
        RegisteredModelFactory(
            slug="demo", state="failed", failure="It has no tokenizer.", sampler=None, champion=None
        )

        assert "It has no tokenizer." in client.get("/models/demo/play/").text

    def test_begins_with_what_was_asked_before(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        messages = [{"role": "system", "content": "Brief!"}, {"role": "user", "content": "Who?"}]
        play = asked(version, ada, messages=messages, is_blind=False)

        def initial(name: str) -> dict[str, Any]:
            form = client.get("/models/demo/play/", {name: str(play.pk)}).context["form"]
            return {field: form[field].value() for field in ("prompt", "system", "is_named")}

        assert initial("again") == {"prompt": "Who?", "system": "Brief!", "is_named": True}
        assert initial("like") == {"prompt": "", "system": "Brief!", "is_named": True}
        assert client.get("/models/demo/play/?again=x").status_code == 200
        assert client.get(f"/models/demo/play/?like={uuid4()}").status_code == 200

    def test_lists_everybodys_questions_by_page(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        for n in range(PAGE):
            asked(version, ada, messages=[{"role": "user", "content": f"Mine {n}?"}])
        other = UserFactory(is_staff=True, username="bob")
        asked(version, other, messages=[{"role": "user", "content": "Bob's?"}])

        first = client.get("/models/demo/play/")

        assert "Bob&#x27;s?" in first.text
        assert "Mine 0?" not in first.text
        assert "Mine 0?" in client.get("/models/demo/play/?page=2").text

    def test_costs_the_same_however_much_was_asked(
        self, client: Client, ada, version: ModelVersion, django_assert_max_num_queries
    ) -> None:
        for _ in range(PAGE):
            asked(version, ada, answered=True, pick="left", picked_at=timezone.now())

        with django_assert_max_num_queries(12):
            client.get("/models/demo/play/")

    def test_counts_blind_picks(self, client: Client, ada, version: ModelVersion) -> None:
        asked(version, ada, answered=True, pick="left", picked_at=timezone.now())

        page = " ".join(client.get("/models/demo/play/").text.split())

        assert '<th scope="row">v1 against v0</th> <td class="is-number">1</td>' in page
        assert "v1 better" in page


class TestBlindness:
    def test_hides_who_wrote_what_until_the_pick(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        one, other = (
            asked(version, ada, answered=True),
            PlayFactory(
                model=version.model,
                asked_by=ada,
                answered=True,
                left_version=version.model.versions.get(number=0),
                right_version=version,
            ),
        )

        def shown(play: Play) -> str:
            text = look(client, play).text.replace(str(play.pk), "uuid")
            return text.replace(play.question, "question").split("<main", 1)[1]

        # Swapped sides change not one byte.
        assert without_token(shown(one)) == without_token(shown(other))
        assert "A calm answer." in shown(one)
        assert "31 tokens" not in shown(one)
        history = client.get("/models/demo/play/").text
        assert "v1 better" not in history

    def test_ends_with_the_pick(self, client: Client, ada, version: ModelVersion) -> None:
        play = asked(version, ada, answered=True)

        assert pick(client, play, "right").status_code == 302

        page = look(client, play).text
        assert "<strong>v0</strong>" in page
        assert page.index(V1) < page.index("A calm answer.") < page.index(V0)
        assert "31 tokens · 2.5 s" in page
        assert 'name="pick"' not in page

    def test_is_not_there_when_names_are_asked_for(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        ask(client, is_named="on")
        assert not Play.objects.get().is_blind
        play = asked(version, ada, answered=True, is_blind=False)

        page = look(client, play).text

        assert V1 in page
        assert 'name="pick"' in page

    def test_holds_for_other_admins_who_cannot_pick(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        play = asked(version, UserFactory(is_staff=True, username="bob"), answered=True)

        page = look(client, play).text

        assert "The names stay hidden until bob picks." in page
        assert V1 not in page
        assert 'name="pick"' not in page
        pick(client, play, "left")
        assert "Only who asked" in look(client, play).text
        play.refresh_from_db()
        assert play.pick == ""


def without_token(page: str) -> str:
    """Return a page without its CSRF tokens."""
    return re.sub(r'(name="csrfmiddlewaretoken" value=)"\w+"', r"\1", page)


class TestPlay:
    def test_shows_hostile_text_as_text(self, client: Client, ada, version: ModelVersion) -> None:
        evil = '<script>alert(1)</script><img src=x onerror="alert(2)"> **bold**'
        play = asked(
            version, ada, answered=True, left_text=evil, right_text=evil,
            messages=[{"role": "system", "content": evil}, {"role": "user", "content": evil}],
        )  # fmt: skip

        for page in (look(client, play).text, client.get("/models/demo/play/").text):
            main = page.split("<main", 1)[1]
            assert "<script" not in main
            assert "<img" not in main
        assert "<strong>bold</strong>" in look(client, play).text

    def test_says_when_an_answer_was_cut_or_empty(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        page = look(client, asked(version, ada, answered=True, left_text=" ")).text

        assert page.count("Cut off at 128 tokens.") == 1
        assert "It answered nothing." in page

    def test_polls_until_the_answers_are_there(
        self, client: Client, ada, version: ModelVersion, settings
    ) -> None:
        loaded(version, settings)
        play = asked(version, ada)
        page = look(client, play)
        assert "Both are answering" in page.text
        assert 'http-equiv="refresh"' in page.text
        seen = page.context["waiting"].fingerprint

        assert look(client, play, seen="older").status_code == 200
        assert look(client, play, seen=seen).status_code == 204
        play.delete()
        done = asked(version, ada, answered=True)
        part = look(client, done, seen=seen)

        assert part.status_code == 286
        assert "A calm answer." in part.text
        assert "hx-get" not in part.text
        assert "<html" not in part.text

    def test_names_what_the_engine_has_to_load(
        self, client: Client, ada, version: ModelVersion, settings
    ) -> None:
        loaded(version, settings)
        version.servings.update(loaded_at=None)

        page = look(client, asked(version, ada)).text

        assert "v1 is not in the engine yet" in page

    def test_says_that_the_engine_starts_or_has_failed(
        self, client: Client, ada, version: ModelVersion, starting
    ) -> None:
        play = asked(version, ada)

        starting("running")
        assert "The engine is starting" in look(client, play).text
        starting("failed", "Out of memory.")
        page = look(client, play).text
        assert "failed: Out of memory." in page
        assert "start Pairloop again" in page

    def test_says_when_it_takes_too_long(
        self, client: Client, ada, version: ModelVersion, settings
    ) -> None:
        loaded(version, settings)
        play = asked(version, ada)
        Play.objects.update(created_at=timezone.now() - timedelta(minutes=10))

        assert "The log of the worker" in look(client, play).text

    def test_says_why_there_is_no_answer(self, client: Client, ada, version: ModelVersion) -> None:
        play = asked(version, ada, state="failed", failure="Too many tokens.")

        page = look(client, play)

        assert "Too many tokens." in page.text
        assert "Ask this again" in page.text
        assert look(client, play, seen="x").status_code == 286


class TestPick:
    def test_is_the_first_one(self, client: Client, ada, version: ModelVersion) -> None:
        play = asked(version, ada, answered=True)
        pick(client, play, "equal")

        answer = client.post(
            reverse("play-pick", args=["demo", play.pk]), {"pick": "left"}, follow=True
        )

        assert "The first pick stands" in answer.text
        play.refresh_from_db()
        assert play.pick == "equal"

    def test_is_one_of_four(self, client: Client, ada, version: ModelVersion) -> None:
        play = asked(version, ada, answered=True)

        answer = pick(client, play, "left_much")

        assert answer.status_code == 422
        assert "nothing was kept" in answer.text

    def test_comes_back_from_a_login_in_between(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        play = asked(version, ada, answered=True)

        answer = client.get(reverse("play-pick", args=["demo", play.pk]))

        assert answer.url == reverse("play", args=["demo", play.pk])


API = "/api/v1/models/demo/plays/"


def post(client: Client, path: str = "", **body: Any):
    return client.post(API + path, body, content_type="application/json")


class TestApi:
    def test_asks_the_default_two(self, client: Client, ada, version: ModelVersion) -> None:
        answer = post(client, prompt="Who sings?", system="Be brief.")

        assert answer.status_code == 201
        found = answer.json()
        play = Play.objects.get()
        nothing = {
            "text": "", "finish_reason": "", "version": None, "tokens": None, "seconds": None,
        }  # fmt: skip
        assert found == {
            "id": str(play.pk),
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Who sings?"},
            ],
            "versions": [1, 0],
            "blind": True,
            "asked_by": "ada",
            "state": "waiting",
            "failure": "",
            "left": nothing,
            "right": nothing,
            "pick": "",
            "picked_at": None,
            "created_at": found["created_at"],
        }

    def test_asks_once_when_sent_twice(self, client: Client, ada, version: ModelVersion) -> None:
        body = {"id": str(uuid4()), "prompt": "Who?", "versions": [0, 1], "blind": False}

        assert [post(client, **body).status_code for _ in range(2)] == [201, 200]

        assert str(Play.objects.get().pk) == body["id"]

    def test_tells_who_wrote_what_after_the_pick(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        play = asked(version, ada, answered=True)
        before = client.get(f"{API}{play.pk}/").json()
        assert before["left"] == {
            "text": "A calm answer.", "finish_reason": "stop", "version": None, "tokens": None,
            "seconds": None,
        }  # fmt: skip

        after = post(client, f"{play.pk}/pick/", pick="left").json()

        assert after["left"]["version"] == 1
        assert after["right"] == {
            "text": "An old answer.", "finish_reason": "length", "version": 0, "tokens": 47,
            "seconds": 3.5,
        }  # fmt: skip
        assert client.get(f"{API}{play.pk}/").json() == after
        assert post(client, f"{play.pk}/pick/", pick="left").status_code == 200
        other = post(client, f"{play.pk}/pick/", pick="right")
        assert (other.status_code, other.json()["code"]) == (409, "picked_already")

    def test_tells_it_at_once_when_it_is_not_blind(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        play = asked(version, ada, answered=True, is_blind=False)

        assert client.get(f"{API}{play.pk}/").json()["left"]["version"] == 1

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"prompt": " "},
            {"prompt": "a" * (LARGEST + 1)},
            {"prompt": "\0"},
            {"prompt": "Who?", "versions": [1]},
            {"prompt": "Who?", "versions": [1, 9]},
            {"prompt": "Who?", "versions": "both"},
            {"prompt": "Who?", "id": "x"},
        ],
    )
    def test_says_what_is_wrong(
        self, client: Client, ada, version: ModelVersion, body: dict[str, Any]
    ) -> None:
        answer = post(client, **body)

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        assert not Play.objects.exists()

    def test_refuses_what_the_page_refuses(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        assert post(client, prompt="Who?", versions=[1, 1]).json()["code"] == "version_twice"
        for _ in range(5):
            post(client, prompt="Who?")
        refused = post(client, prompt="Who?")
        assert (refused.status_code, refused.json()["code"]) == (409, "too_many_waiting")

    def test_says_that_it_takes_two(self, client: Client, ada) -> None:
        RegisteredModelFactory(slug="demo")

        assert "no two verified versions" in post(client, prompt="Who?").json()["detail"]

    def test_is_missing_for_labelers_and_across_models(
        self, client: Client, ada, version: ModelVersion
    ) -> None:
        play = asked(version, ada, answered=True)
        RegisteredModelFactory(slug="other")
        assert client.get(f"/api/v1/models/other/plays/{play.pk}/").status_code == 404

        client.force_login(MembershipFactory(model=version.model).user)

        assert post(client, prompt="Who?").status_code == 404
        assert client.get(f"{API}{play.pk}/").status_code == 404
        assert post(client, f"{play.pk}/pick/", pick="left").status_code == 404
