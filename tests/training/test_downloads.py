"""Taking a version along: by the command, from its page, over REST."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from models_registry.models import ModelVersion
from tests import factories
from tests.training.conftest import judge
from tests.training.test_actions import begin, finish, start

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(model, places: Path) -> ModelVersion:
    judge(model, count=2)
    return finish(begin(start(model)), places)


@pytest.fixture
def admin(client):
    client.force_login(factories.UserFactory(is_staff=True))
    return client


def paths(version: ModelVersion, what: str) -> list[str]:
    place = f"models/{version.model.slug}/versions/{version.number}/{what}/"
    return [f"/{place}", f"/api/v1/{place}"]


class TestVersionExport:
    @pytest.mark.parametrize("named", ["1", "v1", "challenger"])
    def test_finds_a_version_by_number_and_alias(
        self, version, tmp_path: Path, capsys, named: str
    ) -> None:
        call_command("version_export", version.model.slug, named, str(tmp_path / "out"))

        assert str(tmp_path / "out") in capsys.readouterr().out
        assert "base_model:" in (tmp_path / "out" / "README.md").read_text()

    @pytest.mark.parametrize(
        ("slug", "named", "said"),
        [
            ("nobody", "1", "No model is registered as nobody"),
            (None, "9", "has no version 9"),
            (None, "best", "challenger, champion, sampler"),
            (None, "0", "--merged|merged"),
        ],
    )
    def test_says_what_there_is_instead(
        self, version, tmp_path: Path, slug: str | None, named: str, said: str
    ) -> None:
        with pytest.raises(CommandError, match=said):
            call_command("version_export", slug or version.model.slug, named, str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


class TestCard:
    def test_is_the_same_from_page_and_api(self, admin, version) -> None:
        page, api = (admin.get(path) for path in paths(version, "card"))

        assert page.text == api.text
        assert "| new triples | 2 |" in page.text
        for answer in (page, api):
            assert answer["Content-Type"] == "text/markdown; charset=utf-8"
            assert answer["X-Content-Type-Options"] == "nosniff"
            name = f"{version.model.slug}-v1.md"
            assert answer["Content-Disposition"] == f'attachment; filename="{name}"'


class TestAdapter:
    def test_is_streamed_from_page_and_api(self, admin, version) -> None:
        for path in paths(version, "adapter"):
            answer = admin.get(path)

            assert answer.streaming
            assert answer["Content-Type"] == "application/zip"
            assert answer["X-Content-Type-Options"] == "nosniff"
            name = f"{version.model.slug}-v1.zip"
            assert answer["Content-Disposition"] == f'attachment; filename="{name}"'
            with zipfile.ZipFile(io.BytesIO(answer.getvalue())) as archive:
                assert len(archive.namelist()) == 3

    def test_is_asked_for_by_its_type(self, admin, version) -> None:
        path = paths(version, "adapter")[1]

        assert admin.get(path, headers={"Accept": "application/zip"}).status_code == 200

    def test_of_a_base_is_refused_with_a_sentence(self, admin, version) -> None:
        page, api = (admin.get(path) for path in paths(version.parent, "adapter"))

        assert (page.status_code, api.status_code) == (409, 409)
        assert "has no adapter" in page.text
        assert api.json()["code"] == "no_adapter"


@pytest.mark.parametrize("what", ["card", "adapter"])
class TestAccess:
    def test_is_staffs_alone(self, client, version, what: str) -> None:
        client.force_login(factories.MembershipFactory(model=version.model).user)

        assert [client.get(path).status_code for path in paths(version, what)] == [404, 404]

    def test_finds_nothing_of_another_model(self, admin, version, what: str) -> None:
        other = factories.RegisteredModelFactory()

        for path in paths(version, what):
            assert admin.get(path.replace(version.model.slug, other.slug)).status_code == 404
