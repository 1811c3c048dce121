from __future__ import annotations

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from annotate import imports
from annotate.models import Import
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def model(settings, tmp_path):
    settings.IMPORTS = tmp_path / "imports"
    return factories.RegisteredModelFactory()


@pytest.fixture
def admin():
    client = Client()
    client.force_login(factories.UserFactory(is_staff=True, username="ada"))
    return client


def path(model, more=""):
    return f"/models/{model.slug}/triples/{more}"


def line(number):
    return {"prompt": f"What is {number}?", "chosen": f"{number}.", "rejected": "No idea."}


def upload(admin, model, *rows, name="p.jsonl"):
    body = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return admin.post(path(model), {"file": SimpleUploadedFile(name, body)})


class TestImport:
    def test_goes_from_the_form_over_the_worker_to_the_report(self, admin, model):
        sent = upload(admin, model, line(1), "<script>", line(2), line(1), name="<b>.jsonl")

        started = Import.objects.get()
        assert (sent.status_code, sent.url) == (302, path(model, f"imports/{started.pk}/"))
        waiting = admin.get(sent.url)
        assert "Waits for the worker" in waiting.text
        assert "hx-get" in waiting.text
        assert admin.get(sent.url, headers={"HX-Request": "true"}).status_code == 200

        imports.import_run(import_id=started.pk)

        polled = admin.get(sent.url, headers={"HX-Request": "true"})
        assert polled.status_code == 286
        assert "hx-get" not in polled.text
        done = admin.get(sent.url).text
        assert "&lt;b&gt;.jsonl" in done
        assert "A line is an object" in done
        assert "by ada" in done
        assert "hx-get=" not in done

    def test_is_one_after_a_double_click(self, admin, model):
        assert upload(admin, model, line(1)).url == upload(admin, model, line(1)).url

    def test_says_what_is_wrong_with_a_file(self, admin, model):
        nothing = admin.post(path(model), {})
        empty = upload(admin, model)

        assert (nothing.status_code, empty.status_code) == (422, 422)
        assert "Choose a file first" in nothing.text
        assert "The file is empty" in empty.text

    def test_shows_the_first_hundred_bad_lines(self, admin, model):
        upload(admin, model, *[7] * 150)
        started = Import.objects.get()
        imports.import_run(import_id=started.pk)

        page = admin.get(path(model, f"imports/{started.pk}/")).text

        assert page.count("A line is an object") == 100
        assert "And 50 more." in page

    def test_shows_why_it_failed(self, admin, model):
        found = factories.ImportFactory(model=model, state="failed", failure="It is <damaged>.")

        assert "It is &lt;damaged&gt;." in admin.get(path(model, f"imports/{found.pk}/")).text

    def test_of_another_model_is_not_found(self, admin, model):
        other = factories.ImportFactory()

        assert admin.get(path(model, f"imports/{other.pk}/")).status_code == 404


class TestList:
    def test_shows_triples_with_origin_and_round(self, admin, model):
        imported = factories.ImportedPreferenceFactory(model=model, target=0.75)
        judged = factories.JudgementFactory(assignment__pair__prompt__model=model).assignment.pair
        item = factories.SnapshotItemFactory(pair=imported.pair, is_consumed=True)
        factories.RoundFactory(model=model, number=7, snapshot=item.snapshot)

        page = admin.get(path(model)).text

        newest, older = (
            page.index(judged.prompt.question),
            page.index(imported.pair.prompt.question),
        )
        assert newest < older
        assert "from a file" in page[older:]
        assert "target 0.75" in page[older:]
        assert f"/models/{model.slug}/rounds/7/" in page[older:]
        assert "no round yet" in page[newest:older]

    def test_goes_in_pages(self, admin, model):
        made = [factories.ImportedPreferenceFactory(model=model) for _ in range(21)]

        first = admin.get(path(model)).text
        second = admin.get(path(model), {"before": made[1].pair_id}).text

        assert f"?before={made[1].pair_id}" in first
        assert made[0].pair.prompt.question not in first
        assert made[0].pair.prompt.question in second
        assert "?before=" not in second
        for odd in ("x", "-1", "9" * 30, "\u0663"):
            assert admin.get(path(model), {"before": odd}).status_code == 200

    def test_costs_the_same_however_many_there_are(
        self, admin, model, django_assert_max_num_queries
    ):
        for _ in range(12):
            factories.ImportedPreferenceFactory(model=model)

        with django_assert_max_num_queries(14):
            admin.get(path(model))

    def test_says_why_it_is_empty(self, admin, model):
        assert "None yet." in admin.get(path(model)).text
        assert "none before this" in admin.get(path(model), {"before": "1"}).text

    def test_escapes_what_people_and_models_wrote(self, admin, model):
        pair = factories.PairFactory(
            prompt__model=model,
            prompt__messages=[{"role": "user", "content": "<script>p</script>"}],
            first__text="<script>a</script>",
        )
        factories.JudgementFactory(assignment__pair=pair)

        assert "<script>" not in admin.get(path(model)).text.partition("<main")[2]


class TestFile:
    def test_asks_again_for_a_format_that_there_is_not(self, admin, model):
        response = admin.get(path(model, "file/"), {"format": "exe", "keys": "good_bad"})

        assert response.status_code == 422
        assert "Select a valid choice" in response.text


class TestRoles:
    def test_labelers_find_nothing(self, client, model):
        client.force_login(factories.MembershipFactory(model=model).user)
        found = factories.ImportFactory(model=model)

        for address in ("", "file/?format=jsonl&keys=good_bad", f"imports/{found.pk}/"):
            assert client.get(path(model, address)).status_code == 404
        assert upload(client, model, line(1)).status_code == 404
        assert Import.objects.count() == 1
