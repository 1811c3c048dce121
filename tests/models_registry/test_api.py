from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from models_registry.models import Alias, AliasMove, ModelVersion
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(factories.UserFactory.create(is_staff=True, username="ada"))
    return client


@pytest.fixture
def version() -> ModelVersion:
    return factories.ModelVersionFactory.create(
        adapter=True, model__slug="demo", metrics={"loss": 0.5}, card="# A card"
    )


def move(client: Client, name: str, **body: Any) -> Any:
    return client.post(
        f"/api/v1/models/demo/aliases/{name}/", body, content_type="application/json"
    )


class TestModels:
    def test_are_listed_for_an_admin(self, admin: Client, version: ModelVersion) -> None:
        (model,) = admin.get("/api/v1/models/").json()["results"]

        assert model["slug"] == "demo"
        assert model["aliases"] == {"champion": 0, "sampler": 0}
        assert model["lora"]["rank"] == 16
        assert admin.get("/api/v1/models/demo/").json() == model

    def test_tell_a_labeler_the_names_of_theirs_and_nothing_else(
        self, client: Client, version: ModelVersion
    ) -> None:
        factories.RegisteredModelFactory.create(slug="other")
        membership = factories.MembershipFactory.create(model=version.model)
        client.force_login(membership.user)

        mine = {"slug": "demo", "name": version.model.name}
        assert client.get("/api/v1/models/").json()["results"] == [mine]
        assert client.get("/api/v1/models/demo/").json() == mine
        assert client.get("/api/v1/models/other/").status_code == 404

    def test_need_a_login(self, client: Client) -> None:
        assert client.get("/api/v1/models/").status_code == 401


class TestVersions:
    def test_are_listed_the_newest_first(self, admin: Client, version: ModelVersion) -> None:
        factories.ServingFactory.create(
            version=version, engine="unix:///e", canary={"passed": True}
        )

        newest, base = admin.get("/api/v1/models/demo/versions/").json()["results"]

        assert (newest["number"], newest["parent"], newest["kind"]) == (1, 0, "adapter")
        assert newest["sha256"] == version.sha256
        assert newest["served"] == [
            {"engine": "unix:///e", "loaded_at": None, "canary": {"passed": True}}
        ]
        assert (base["number"], base["parent"]) == (0, None)
        assert base["aliases"] == ["champion", "sampler"]

    @pytest.mark.parametrize(
        ("query", "numbers"),
        [
            ({"state": "registered"}, [1]),
            ({"kind": "base"}, [0]),
            ({"kind": "base", "state": "registered"}, []),
            ({"ordering": "number"}, [0, 1]),
            ({"page_size": "1", "page": "2"}, [0]),
        ],
    )
    def test_are_filtered(
        self, admin: Client, version: ModelVersion, query: dict[str, str], numbers: list[int]
    ) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(state="registered")

        told = admin.get("/api/v1/models/demo/versions/", query).json()["results"]

        assert [one["number"] for one in told] == numbers

    def test_tell_metrics_and_card_one_by_one(self, admin: Client, version: ModelVersion) -> None:
        one = admin.get("/api/v1/models/demo/versions/1/").json()

        assert one["metrics"] == {"loss": 0.5}
        assert one["card"] == "# A card"

    def test_are_missing_where_there_are_none(self, admin: Client, version: ModelVersion) -> None:
        for path in ("demo/versions/2/", "other/versions/"):
            answer = admin.get(f"/api/v1/models/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    @pytest.mark.parametrize("path", ["versions/", "versions/1/"])
    def test_are_not_for_labelers(self, client: Client, version: ModelVersion, path: str) -> None:
        membership = factories.MembershipFactory.create(model=version.model)
        client.force_login(membership.user)

        assert client.get(f"/api/v1/models/demo/{path}").status_code == 404


class TestAlias:
    def test_moves_the_champion(self, admin: Client, version: ModelVersion) -> None:
        answer = move(admin, "champion", version=1, reason="It won.")

        assert answer.status_code == 200
        said = answer.json()
        assert (said["name"], said["from_version"], said["version"]) == ("champion", 0, 1)
        assert (said["moved_by"], said["reason"]) == ("ada", "It won.")
        assert Alias.objects.get(name="champion").version == version

    @pytest.mark.parametrize(
        ("name", "body", "code"),
        [
            ("sampler", {"version": 1, "reason": "So."}, "alias_follows_policy"),
            ("challenger", {"version": 1, "reason": "So."}, "alias_follows_policy"),
            ("champion", {"version": 1}, "reason_missing"),
            ("champion", {"version": 0, "reason": "So."}, "already_champion"),
        ],
    )
    def test_is_refused_with_a_sentence(
        self, admin: Client, version: ModelVersion, name: str, body: dict[str, Any], code: str
    ) -> None:
        answer = move(admin, name, **body)

        assert (answer.status_code, answer.json()["code"]) == (409, code)
        assert answer.json()["detail"].endswith(".")
        assert not AliasMove.objects.exists()

    def test_does_not_point_at_what_is_not_verified(
        self, admin: Client, version: ModelVersion
    ) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(state="registered")

        assert (
            move(admin, "champion", version=1, reason="So.").json()["code"] == "version_unverified"
        )

    def test_does_not_point_at_what_is_not_there(
        self, admin: Client, version: ModelVersion
    ) -> None:
        assert move(admin, "champion", version=7, reason="So.").status_code == 404

    def test_needs_a_version(self, admin: Client, version: ModelVersion) -> None:
        answer = move(admin, "champion", reason="So.")

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")

    def test_is_not_for_labelers(self, client: Client, version: ModelVersion) -> None:
        membership = factories.MembershipFactory.create(model=version.model)
        client.force_login(membership.user)

        assert move(client, "champion", version=1, reason="So.").status_code == 404
