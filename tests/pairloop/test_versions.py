from __future__ import annotations

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotate.models import Pair
from models_registry import actions
from models_registry.models import Alias, AliasMove, ModelVersion
from tests.factories import (
    MembershipFactory,
    ModelVersionFactory,
    PairFactory,
    RegisteredModelFactory,
    RoundFactory,
    ServingFactory,
    UserFactory,
)
from tests.pairloop.history import history_make

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
        ["", "1/", "1/triples/", "1/promote/", "rollback/"],
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

        assert "round 7</a>, from v0" in page
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
        with django_assert_max_num_queries(12):
            admin.get("/models/demo/versions/")

    def test_draws_the_lineage_and_what_was_measured(self, admin: Client) -> None:
        history_make()

        page = admin.get("/models/demo/versions/").text

        assert page.count("lineage-line") == 6
        assert "round 3 · 3 triples" in page
        assert "2 new triples and 2 replayed</a>" in page
        # Accuracy begins with v2: before v1, too few held-out triples had been judged.
        assert 'aria-label="Prefers the good answer: v2 60%, v3 64%' in page
        assert "Tokens of an answer: v0 81, v1 68" in page

    def test_says_nothing_of_rounds_where_none_made_a_version(
        self, admin: Client, version: ModelVersion
    ) -> None:
        page = admin.get("/models/demo/versions/").text

        assert "unknown: no round made it" in page
        assert "From version to version" not in page


class TestVersion:
    def test_shows_hashes_metrics_and_card(self, admin: Client, version: ModelVersion) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(
            metrics={"training": {"accuracy": 0.71234567, "drift_chosen": None}}
        )

        page = admin.get("/models/demo/versions/1/").text

        assert version.sha256 in page
        assert "Drift of good answers" in page
        assert "0.7123" in page
        assert "Known limits</h2>" in page
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


class TestTriples:
    def test_show_what_a_version_learned(self, admin: Client) -> None:
        history_make()

        page = admin.get("/models/demo/versions/2/triples/").text

        assert page.count('class="triple"') == 4
        assert page.count("Replayed from an earlier round") == 2
        assert "judged by 4 labelers" in page

    @pytest.mark.parametrize("asked", ["9", "x", "-1"])
    def test_find_a_page_whatever_is_asked(self, admin: Client, asked: str) -> None:
        history_make()

        assert admin.get(f"/models/demo/versions/2/triples/?page={asked}").status_code == 200

    def test_say_why_there_are_none(self, admin: Client, version: ModelVersion) -> None:
        assert "is the base" in admin.get("/models/demo/versions/0/triples/").text
        assert "No round made v1" in admin.get("/models/demo/versions/1/triples/").text


class TestPair:
    def test_leads_to_whoever_judged_it_and_whatever_learned_it(self, admin: Client) -> None:
        history_make()
        pair = Pair.objects.order_by("pk")[2]

        page = admin.get(f"/models/demo/pairs/{pair.pk}/").text

        assert "A is better" in page
        assert pair.assignments.get().labeler.username in page
        assert "/models/demo/versions/1/" in page
        assert "/models/demo/versions/2/" in page

    def test_says_why_nothing_learned_it(self, admin: Client, version: ModelVersion) -> None:
        held_out = PairFactory(prompt__model=version.model, prompt__split="holdout")
        waiting = PairFactory(prompt__model=version.model)

        assert "held out" in admin.get(f"/models/demo/pairs/{held_out.pk}/").text
        assert "makes no triple" in admin.get(f"/models/demo/pairs/{waiting.pk}/").text

    def test_is_hidden_from_labelers_and_other_models(
        self, client: Client, version: ModelVersion
    ) -> None:
        pair = PairFactory(prompt__model=version.model)
        RegisteredModelFactory(slug="other")
        client.force_login(MembershipFactory(model=version.model).user)
        assert client.get(f"/models/demo/pairs/{pair.pk}/").status_code == 404

        client.force_login(UserFactory(is_staff=True))

        assert client.get(f"/models/other/pairs/{pair.pk}/").status_code == 404
        assert client.get(f"/models/demo/pairs/{10**30}/").status_code == 404


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
