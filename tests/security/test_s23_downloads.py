"""S23: what can be downloaded is saved, never shown, and has a fixed type."""

from __future__ import annotations

import json

import pytest
from django.test import Client

from tests import factories

pytestmark = pytest.mark.django_db

HOSTILE = "<script>alert(1)</script>\u2028=1+1"
TYPES = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}


@pytest.fixture
def model():
    model = factories.RegisteredModelFactory(slug="tiny")
    pair = factories.PairFactory(prompt__model=model, first__text=HOSTILE)
    factories.JudgementFactory(assignment__pair=pair)
    return model


@pytest.fixture
def admin():
    client = Client()
    client.force_login(factories.UserFactory(is_staff=True))
    return client


def addresses(file_format):
    return (
        f"/models/tiny/triples/file/?format={file_format}&keys=chosen_rejected",
        f"/api/v1/models/tiny/triples/?format={file_format}",
    )


@pytest.mark.parametrize("file_format", list(TYPES))
def test_triples_are_attachments_of_a_fixed_type(admin, model, file_format):
    for address in addresses(file_format):
        # Whatever the client says that it would like to have.
        response = admin.get(address, headers={"Accept": "text/html, */*"})

        assert response.status_code == 200
        assert response["Content-Type"] == TYPES[file_format]
        assert response["X-Content-Type-Options"] == "nosniff"
        assert (
            response["Content-Disposition"] == f'attachment; filename="tiny-triples.{file_format}"'
        )
        assert response.getvalue()


def test_triples_keep_hostile_text_as_it_is(admin, model):
    for address in addresses("jsonl"):
        (line,) = [json.loads(line) for line in admin.get(address).getvalue().split(b"\n") if line]

        assert line["chosen"][0]["content"] == HOSTILE


@pytest.mark.parametrize("file_format", list(TYPES))
def test_triples_are_for_admins(model, file_format):
    labeler = Client()
    labeler.force_login(factories.MembershipFactory(model=model).user)

    for address in addresses(file_format):
        assert labeler.get(address).status_code == 404
        assert Client().get(address).status_code in {302, 401, 403}
