"""The REST API as a whole: its description, and that it keeps to it."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from tests import factories

pytestmark = pytest.mark.django_db


def schema() -> dict[str, Any]:
    client = Client()
    client.force_login(factories.UserFactory.create())
    answer = client.get("/api/v1/schema/")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


class TestSchema:
    def test_is_made_without_a_warning(self, tmp_path: Any) -> None:
        call_command(
            "spectacular", validate=True, fail_on_warn=True, file=str(tmp_path / "schema.yml")
        )

    def test_says_of_every_call_how_it_is_refused(self) -> None:
        for path, calls in schema()["paths"].items():
            for method, call in calls.items():
                least = {"401", "404", "429"} | (
                    {"400", "403", "409"} if method != "get" else set()
                )
                assert least <= set(call["responses"]), (method, path)
                assert call["summary"], (method, path)
                assert call["security"] == [{"token": []}, {"cookieAuth": []}]

    def test_says_of_every_answer_what_is_in_it(self) -> None:
        for path, calls in schema()["paths"].items():
            for method, call in calls.items():
                for status, answer in call["responses"].items():
                    assert status == "204" or answer["content"], (method, path, status)

    def test_knows_json_lines(self) -> None:
        paths = schema()["paths"]

        assert (
            "application/jsonl"
            in paths["/api/v1/models/{slug}/triples/"]["get"]["responses"]["200"]["content"]
        )
        sent = paths["/api/v1/models/{slug}/prompts/"]["post"]["requestBody"]["content"]
        assert {"application/json", "application/jsonl"} <= set(sent)


class TestDocs:
    def test_come_from_our_own_origin(self, client: Client) -> None:
        client.force_login(factories.UserFactory.create())

        page = client.get("/api/v1/docs/").content.decode()

        assert "swagger-ui-bundle.js" in page
        assert "//cdn" not in page


class TestPages:
    def test_are_linked(self, client: Client) -> None:
        client.force_login(factories.UserFactory.create(is_staff=True))
        models = [factories.RegisteredModelFactory.create().slug for _ in range(3)]

        first = client.get("/api/v1/models/", {"page_size": 2}).json()
        second = client.get(first["next"]).json()

        assert (first["count"], first["previous"], second["next"]) == (3, None, None)
        assert [model["slug"] for model in first["results"] + second["results"]] == models
        assert client.get("/api/v1/models/", {"page": 9}).json()["code"] == "not_found"
