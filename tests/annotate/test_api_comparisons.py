from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from annotate.models import Split
from models_registry.models import Comparison, ModelVersion, Outcome
from tests import factories

pytestmark = pytest.mark.django_db

URL = "/api/v1/models/demo/comparisons/"


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(factories.UserFactory.create(is_staff=True, username="ada"))
    return client


@pytest.fixture
def version() -> ModelVersion:
    """v1 beside v0, with three prompts held out."""
    made = factories.ModelVersionFactory.create(adapter=True, model__slug="demo")
    factories.PromptFactory.create_batch(3, model=made.model, split=Split.HOLDOUT)
    return made


def ask(client: Client, **body: Any) -> Any:
    asked = {"candidate": 1, "incumbent": 0, "prompts": 3} | body
    return client.post(URL, asked, content_type="application/json")


class TestComparisons:
    def test_are_opened_and_read(self, admin: Client, version: ModelVersion) -> None:
        answer = ask(admin)

        assert answer.status_code == 201
        opened = answer.json()
        assert (opened["candidate"], opened["incumbent"], opened["prompts"]) == (1, 0, 3)
        assert (opened["state"], opened["created_by"]) == ("open", "ada")
        assert opened["win_rate"] is None
        assert opened["evidence"] == 1.0
        assert opened["progress"] == {"judged": 0, "waiting": 0, "left_out": {}}
        assert admin.get(f"{URL}{opened['id']}/").json() == opened
        assert admin.get(URL).json()["results"] == [opened]

    def test_tell_what_they_prove(self, admin: Client, version: ModelVersion) -> None:
        comparison = factories.ComparisonFactory.create(model=version.model)
        for kind in ("win", "tie", "both_bad"):
            factories.OutcomeFactory.create(
                comparison=comparison, kind=kind, winner=version if kind == "win" else None
            )

        found = admin.get(f"{URL}{comparison.pk}/").json()

        counts = [found[name] for name in ("wins", "losses", "ties", "both_bad")]
        assert counts == [1, 0, 1, 1]
        assert found["win_rate"]["value"] == 1.0
        assert found["evidence"] == pytest.approx(1.33)
        assert found["passed"] is False
        assert found["checks"][0] == {
            "name": "evidence", "ok": False, "value": pytest.approx(1.33), "bound": 20.0,
            "sentence": "The evidence is 1.3×; 20× is needed.",  # noqa: RUF001
        }  # fmt: skip
        assert len(found["unchecked"]) == 4

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"incumbent": 1}, 409, "same_version"),
            ({"prompts": 4}, 409, "budget_invalid"),
            ({"prompts": 0}, 409, "budget_invalid"),
            ({"prompts": "many"}, 400, "invalid"),
            ({"candidate": -1}, 400, "invalid"),
            ({"candidate": 7}, 404, "not_found"),
        ],
    )
    def test_refuse_what_cannot_be_compared(
        self, admin: Client, version: ModelVersion, body: dict[str, Any], status: int, code: str
    ) -> None:
        answer = ask(admin, **body)

        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert not Comparison.objects.exists()

    def test_are_opened_once_at_a_time(self, admin: Client, version: ModelVersion) -> None:
        ask(admin)

        again = ask(admin)

        assert (again.status_code, again.json()["code"]) == (409, "comparison_open")

    def test_are_closed_once(self, admin: Client, version: ModelVersion) -> None:
        address = f"{URL}{ask(admin).json()['id']}/close/"

        closed = admin.post(address).json()

        assert closed["state"] == "closed"
        assert admin.post(address).json() == closed

    def test_of_another_model_do_not_exist(self, admin: Client, version: ModelVersion) -> None:
        other = factories.ComparisonFactory.create()

        assert admin.get(f"{URL}{other.pk}/").status_code == 404
        assert admin.post(f"{URL}{other.pk}/close/").status_code == 404

    def test_do_not_exist_for_labelers(self, client: Client, version: ModelVersion) -> None:
        comparison = factories.ComparisonFactory.create(model=version.model)
        client.force_login(factories.MembershipFactory.create(model=version.model).user)

        assert client.get(URL).status_code == 404
        assert ask(client).status_code == 404
        assert client.get(f"{URL}{comparison.pk}/").status_code == 404
        assert client.post(f"{URL}{comparison.pk}/close/").status_code == 404

    def test_follow_what_was_judged_over_the_api(
        self, client: Client, version: ModelVersion
    ) -> None:
        comparison = factories.ComparisonFactory.create(model=version.model)
        prompt = version.model.prompts.first()
        texts = {
            one: factories.CompletionFactory.create(prompt=prompt, version=one, text=one.label)
            for one in (version.parent, version)
        }
        factories.QueueEntryFactory.create(
            pair=factories.PairFactory.create(
                prompt=prompt, first=texts[version.parent], second=texts[version],
                purpose="compare", comparison=comparison,
            )
        )  # fmt: skip
        client.force_login(factories.MembershipFactory.create(model=version.model).user)

        pair = client.post("/api/v1/models/demo/assignments/").json()
        side = "left" if pair["left"]["text"] == "v1" else "right"
        # Nothing in it tells that this is a comparison.
        assert set(pair) == {
            "id", "prompt", "left", "right", "guidelines_version", "expires_at",
        }  # fmt: skip
        judgement = f"/api/v1/assignments/{pair['id']}/judgement/"
        client.post(judgement, {"verdict": side}, content_type="application/json")

        assert Outcome.objects.get(withdrawn_at=None).winner == version
        client.delete(judgement)
        assert not Outcome.objects.filter(withdrawn_at=None).exists()
