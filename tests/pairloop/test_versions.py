from __future__ import annotations

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from models_registry import actions
from models_registry.models import Alias, AliasMove, ModelVersion
from pairloop.pages import version_queries
from tests.factories import (
    MembershipFactory,
    ModelVersionFactory,
    RegisteredModelFactory,
    RoundFactory,
    ServingFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(UserFactory(is_staff=True, username="ada"))
    return client


@pytest.fixture
def version() -> ModelVersion:
    return ModelVersionFactory(adapter=True, model__slug="demo")


def served(version: ModelVersion, **fields: object) -> None:
    ServingFactory(version=version, engine=settings.ENGINE_URL, **fields)


def promote(client: Client, reason: str = "It won.", number: int = 1):
    return client.post(reverse("version-promote", args=["demo", number]), {"reason": reason})


def rollback(client: Client, reason: str = "It rambles.", champion: int = 1):
    return client.post(
        reverse("versions-rollback", args=["demo"]), {"reason": reason, "champion": champion}
    )


def champion() -> int:
    return Alias.objects.get(name="champion").version.number


class TestAccess:
    @pytest.mark.parametrize(
        "path",
        ["", "1/", "1/promote/", "rollback/"],
    )
    def test_is_hidden_from_labelers(
        self, client: Client, version: ModelVersion, path: str
    ) -> None:
        client.force_login(MembershipFactory(model=version.model).user)
        url = f"/models/demo/versions/{path}"

        assert client.get(url).status_code == 404
        if path in {"1/promote/", "rollback/"}:
            assert client.post(url, {"reason": "So.", "champion": 0}).status_code == 404

    @pytest.mark.parametrize("path", ["other/versions/", "other/versions/1/", "demo/versions/9/"])
    def test_is_missing_where_there_is_nothing(
        self, admin: Client, version: ModelVersion, path: str
    ) -> None:
        assert admin.get(f"/models/{path}").status_code == 404


class TestVersions:
    def test_shows_who_made_what_and_where_it_is(
        self, admin: Client, version: ModelVersion
    ) -> None:
        RoundFactory(model=version.model, number=7, version=version, state="succeeded")
        canary = {"passed": True, "effect": 0.5, "difference": 0.005, "note": ""}
        served(version, loaded_at=timezone.now(), canary=canary)

        page = admin.get("/models/demo/versions/").text

        assert "round 7, from v0" in page
        assert "off by 1.0% of what training changed" in page
        assert "loaded" in page

    def test_says_what_follows_when_there_is_only_the_base(self, admin: Client) -> None:
        RegisteredModelFactory(slug="demo")

        assert "its result becomes v1" in admin.get("/models/demo/versions/").text

    @pytest.mark.parametrize(
        ("state", "said"),
        [("preparing", "the base is being prepared"), ("failed", "No tokenizer.")],
    )
    def test_says_why_there_is_none(self, admin: Client, state: str, said: str) -> None:
        RegisteredModelFactory(
            slug="demo", state=state, failure="No tokenizer.", sampler=None, champion=None
        )

        page = admin.get("/models/demo/versions/").text

        assert said in page
        assert "There is no champion yet" in page

    def test_shows_who_moved_the_champion_and_why(
        self, admin: Client, version: ModelVersion
    ) -> None:
        promote(admin, "Shorter & <b>better</b>.")

        page = admin.get("/models/demo/versions/").text

        assert "ada" in page
        assert "Shorter &amp; &lt;b&gt;better&lt;/b&gt;." in page

    def test_costs_the_same_however_many_there_are(
        self, admin: Client, version: ModelVersion, django_assert_max_num_queries
    ) -> None:
        for number in range(2, 8):
            ModelVersionFactory(model=version.model, number=number, kind="adapter", parent=version)

        # Session, user, model, then what the page shows.
        with django_assert_max_num_queries(8):
            admin.get("/models/demo/versions/")


class TestVersion:
    def test_shows_hashes_metrics_and_card(self, admin: Client, version: ModelVersion) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(
            metrics={"eval": {"accuracy": 0.71234567}, "guardrails": {"failed": []}},
            card="# The card\n\n<script>alert(1)</script>",
        )

        page = admin.get("/models/demo/versions/1/").text

        assert version.sha256 in page
        assert "eval · accuracy" in page
        assert "0.7123" in page
        assert "The card</h1>" in page
        assert "<script>alert" not in page
        assert "Promote to champion" in page

    def test_says_why_it_failed_and_cannot_be_promoted(
        self, admin: Client, version: ModelVersion
    ) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(state="registered")
        served(version, canary={"passed": False, "effect": 1, "difference": 1, "note": "Not it."})

        page = admin.get("/models/demo/versions/1/").text

        assert "failed: Not it." in page
        assert "this one failed its check" in page
        assert "Promote to champion" not in page

    @pytest.mark.parametrize(
        ("state", "said"),
        [
            ("registered", "waits for its check"),
            ("corrupt", "is corrupt"),
            ("retired", "is retired"),
        ],
    )
    def test_offers_only_what_can_be_done(
        self, admin: Client, version: ModelVersion, state: str, said: str
    ) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(state=state)

        page = admin.get("/models/demo/versions/1/").text

        assert f"this one {said}" in page
        assert "Promote to champion" not in page

    def test_explains_the_first_champion(self, admin: Client, version: ModelVersion) -> None:
        assert "none was before it" in admin.get("/models/demo/versions/0/").text


class TestPromote:
    def test_makes_it_champion_and_says_so(self, admin: Client, version: ModelVersion) -> None:
        answer = promote(admin)

        assert answer.url == "/models/demo/versions/"
        assert champion() == 1
        assert "v1 is the champion now." in admin.get(answer.url).text
        assert AliasMove.objects.get().moved_by.username == "ada"

    def test_keeps_what_was_typed_when_it_is_refused(
        self, admin: Client, version: ModelVersion
    ) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(state="registered")

        answer = promote(admin, "A long & good reason.")

        assert answer.status_code == 409
        assert "v1 is not verified" in answer.text
        assert "A long &amp; good reason." in answer.text
        assert champion() == 0

    def test_refuses_to_go_without_a_reason(self, admin: Client, version: ModelVersion) -> None:
        answer = promote(admin, " ")

        assert answer.status_code == 409
        assert "Say why" in answer.text
        assert "Promote to champion" in answer.text

    def test_refuses_a_reason_that_is_a_book(self, admin: Client, version: ModelVersion) -> None:
        answer = promote(admin, "a" * 1001)

        assert answer.status_code == 422
        assert "a" * 1001 in answer.text

    def test_leads_to_the_version_after_a_login_in_between(
        self, admin: Client, version: ModelVersion
    ) -> None:
        assert admin.get("/models/demo/versions/1/promote/").url == "/models/demo/versions/1/"


class TestRollback:
    def test_makes_the_one_before_champion_again(
        self, admin: Client, version: ModelVersion
    ) -> None:
        promote(admin)
        assert "Roll back to v0" in admin.get("/models/demo/versions/1/").text

        answer = rollback(admin)

        assert answer.url == "/models/demo/versions/"
        assert champion() == 0
        assert "v0 is the champion again." in admin.get(answer.url).text

    def test_sent_twice_does_not_go_there_and_back(
        self, admin: Client, version: ModelVersion
    ) -> None:
        promote(admin)
        rollback(admin)

        answer = rollback(admin)

        assert answer.status_code == 409
        assert "another version by now" in answer.text
        assert champion() == 0

    def test_keeps_what_was_typed_when_it_is_refused(
        self, admin: Client, version: ModelVersion
    ) -> None:
        promote(admin)
        second = ModelVersionFactory(model=version.model, number=2, kind="adapter", parent=version)
        promote(admin, number=second.number)
        actions.version_condemn(version=version, now=timezone.now())

        answer = rollback(admin, "It rambles.", champion=2)

        assert answer.status_code == 409
        assert "The champion before was v1, which is corrupt now." in answer.text
        assert "It rambles." in answer.text
        assert champion() == 2

    def test_refuses_to_go_without_a_reason(self, admin: Client, version: ModelVersion) -> None:
        promote(admin)

        answer = rollback(admin, "")

        assert answer.status_code == 409
        assert "Say why" in answer.text
        assert champion() == 1

    def test_leads_to_the_list_after_a_login_in_between(
        self, admin: Client, version: ModelVersion
    ) -> None:
        assert admin.get("/models/demo/versions/rollback/").url == "/models/demo/versions/"


class TestFacts:
    def test_name_every_number_however_deep(self) -> None:
        metrics = {
            "loss": 0.123456,
            "eval_accuracy": None,
            "guardrails": {"failed": ["kl", "length"], "limits": {"kl": 3}},
        }

        assert version_queries.facts(metrics) == [
            ("eval accuracy", "—"),
            ("guardrails · failed", "kl, length"),
            ("guardrails · limits · kl", "3"),
            ("loss", "0.1235"),
        ]
