"""A version that is the mean of others: by the command, and on every page that shows versions."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from models_registry import store
from models_registry.models import Alias, AliasMove, ModelVersion
from models_registry.queries import sampler_wanted
from tests import factories
from tests.models_registry.adapters import adapter_make
from tests.training.conftest import judge
from tests.training.test_actions import begin, finish, jobs, start
from training.cards import card_of

pytestmark = pytest.mark.django_db

#: Ways the program may end. It is called as `python -m training.dpo.average OUT FOLDER ... --base --weights`.
ENDS = {
    "good": 'shutil.copytree(made, out)\nprint("Averaging")\nprint(json.dumps({"lost": 0.125}))',
    "refuses": 'sys.exit("These adapters cannot be averaged: a has rank 8, b 16.")',
    "crashes": 'sys.exit("RuntimeError: not enough memory")',
    "killed": "os.kill(os.getpid(), 9)",
    "pickle": 'shutil.copytree(made, out)\nopen(out + "/x.bin", "w")\nprint(json.dumps({"lost": 0.1}))',
}


@pytest.fixture
def model(model, places: Path):
    """A model whose v1 and v2 are verified, and of whose adapters every byte is there."""
    for content in (b"\1", b"\2"):
        judge(model)
        finish(begin(start(model)), places, content=content)
        ModelVersion.objects.update(state=ModelVersion.State.VERIFIED)
    model.rounds.update(state="succeeded")
    return model


@pytest.fixture
def program(settings, places: Path):
    """Return a function that chooses how averaging ends."""
    settings.ML_PYTHON = places / "python"
    made = adapter_make(places / "mean", content=b"\3")

    def ends(ending: str) -> None:
        text = f"""\
            #!{sys.executable}
            import json, os, shutil, sys
            made, out = {str(made)!r}, sys.argv[3]
            assert sys.argv[2] == "training.dpo.average", sys.argv
            open({str(places / "asked.json")!r}, "w").write(json.dumps([sys.argv[4:], dict(os.environ)]))
            """
        settings.ML_PYTHON.write_text(dedent(text) + ENDS[ending])
        settings.ML_PYTHON.chmod(0o700)

    ends("good")
    return ends


def average(model, *versions: str, **options: object) -> str:
    out = io.StringIO()
    given = {"reason": "Two tastes."} | options
    call_command("versions_average", model.slug, *versions, stdout=out, **given)
    return out.getvalue()


def leftovers(places: Path) -> list[Path]:
    return list((places / "versions").glob(".average-*"))


class TestVersionsAverage:
    def test_registers_the_mean_with_where_it_came_from(
        self, model, program, places, no_jobs
    ) -> None:
        said = average(model, "v1", "2", weights=[3.0, 1.0])

        made = model.versions.get(number=3)
        assert (made.parent.number, made.kind, made.state) == (1, "adapter", "registered")
        assert store.artifact_is_whole(made)
        first, second = model.versions.filter(number__in=(1, 2)).order_by("number")
        assert made.average == {
            "versions": [
                {"number": 1, "sha256": first.sha256, "share": 0.75},
                {"number": 2, "sha256": second.sha256, "share": 0.25},
            ],
            "lost": 0.125,
            "reason": "Two tastes.",
        }
        assert made.card == "# A version\n"
        assert "is the mean of v1 (75%) and v2 (25%); the rank has cost 12.50% of its norm" in said
        move = AliasMove.objects.filter(name=Alias.CHALLENGER).latest("pk")
        assert move.reason == "The mean of v1 (75%) and v2 (25%). Two tastes."
        assert "engine_reconcile" in jobs()
        assert leftovers(places) == []

    def test_asks_the_program_for_what_was_said(
        self, model, program, places, monkeypatch, settings
    ) -> None:
        monkeypatch.setenv("PAIRLOOP_SECRET_KEY", "not for it")

        average(model, "v2", "v1", weights=[1.0, 3.0])

        arguments, environment = json.loads((places / "asked.json").read_text())
        folders = [str(store.path_of(model.versions.get(number=number))) for number in (2, 1)]
        base = str(places / "bases" / model.versions.get(number=0).artifact_path)
        assert arguments == [*folders, "--base", base, "--weights", "0.25,0.75"]
        assert "not for it" not in environment.values()

    @pytest.mark.parametrize(
        ("ending", "says"),
        [
            ("refuses", "^These adapters cannot be averaged: a has rank 8, b 16.$"),
            ("crashes", "not be computed .exit code 1, last line: RuntimeError: not enough memory"),
            ("killed", "not be computed .signal 9"),
            ("pickle", "An artifact does not hold x.bin"),
        ],
    )
    def test_registers_nothing_when_the_program_fails(
        self, model, program, places, ending: str, says: str
    ) -> None:
        program(ending)

        with pytest.raises(CommandError, match=says):
            average(model, "v1", "v2")

        assert model.versions.count() == 3
        assert leftovers(places) == []

    @pytest.mark.parametrize(
        ("versions", "options", "says"),
        [
            (["v1"], {}, "two versions or more"),
            (["v1", "1"], {}, "none twice"),
            (["v0", "v1"], {}, "v0 has no adapter"),
            (["v1", "v9"], {}, "has no version v9"),
            (["v1", "best"], {}, "has no version best"),
            (["v1", "v2"], {"weights": [1.0]}, "Give 2 weights above 0"),
            (["v1", "v2"], {"weights": [1.0, -1.0]}, "Give 2 weights above 0"),
            (["v1", "v2"], {"weights": [1.0, float("nan")]}, "Give 2 weights above 0"),
            (["v1", "v2"], {"reason": " "}, "Say why"),
        ],
    )
    def test_refuses_in_a_sentence(self, model, program, versions, options, says: str) -> None:
        with pytest.raises(CommandError, match=says):
            average(model, *versions, **options)

        assert model.versions.count() == 3

    def test_refuses_damaged_and_retired_versions(self, model, program, places) -> None:
        weights = store.path_of(model.versions.get(number=2)) / store.WEIGHTS
        weights.chmod(0o600)
        weights.write_bytes(b"x")
        with pytest.raises(CommandError, match="The files of v2 are not what was registered"):
            average(model, "v1", "v2")

        ModelVersion.objects.filter(number=1).update(state=ModelVersion.State.RETIRED)
        with pytest.raises(CommandError, match="v1 is retired"):
            average(model, "v1", "v2")

    def test_says_when_there_is_no_program(self, model, settings) -> None:
        settings.ML_PYTHON = "/nowhere/python"

        with pytest.raises(CommandError, match="/nowhere/python does not start"):
            average(model, "v1", "v2")


class TestAMean:
    @pytest.fixture
    def mean(self, model, program) -> ModelVersion:
        average(model, "v1", "v2")
        ModelVersion.objects.filter(number=3).update(state=ModelVersion.State.VERIFIED)
        return model.versions.get(number=3)

    @pytest.fixture
    def admin(self, client):
        client.force_login(factories.UserFactory(is_staff=True))
        return client

    def test_does_not_sample_before_people_proved_it(self, model, mean) -> None:
        assert sampler_wanted(model=model, policy="latest").number == 2

        Alias.objects.update_or_create(model=model, name=Alias.CHAMPION, defaults={"version": mean})
        assert sampler_wanted(model=model, policy="champion") == mean

    def test_says_of_what_it_is_the_mean(self, admin, model, mean) -> None:
        pages = {
            name: " ".join(admin.get(reverse(name, args=[model.slug, *rest])).text.split())
            for name, rest in (("versions", []), ("version", [3]), ("version-triples", [3]))
        }

        assert "the mean of v1 (50%) and v2 (50%)" in pages["versions"]
        assert "mean of v1, v2" in pages["versions"]
        assert "nothing itself: it is a mean of others" in pages["versions"]
        assert "the mean of v1 (50%) and v2 (50%); the rank cost 12% of it" in pages["version"]
        assert "Two tastes." in pages["version"]
        assert "is the mean of other versions" in pages["version-triples"]

    def test_has_a_card_that_claims_no_training(self, mean) -> None:
        body = card_of(mean).body

        assert "weighted mean of v1 (50%) and v2 (50%)" in body
        assert "Nothing was trained" in body
        assert "trained by Direct Preference" not in body
        assert "measured by no guardrail" in body

    def test_can_be_seen_everywhere_and_taken_along(self, admin, model, mean) -> None:
        slug = model.slug
        for path in (
            "/", f"/models/{slug}/compare/", f"/models/{slug}/rounds/", f"/models/{slug}/play/",
            f"/models/{slug}/versions/3/card/", f"/models/{slug}/versions/3/adapter/",
            f"/api/v1/models/{slug}/versions/3/", f"/api/v1/models/{slug}/versions/",
        ):  # fmt: skip
            assert admin.get(path).status_code == 200, path

    def test_can_be_what_the_next_round_goes_on_from(self, admin, model, mean) -> None:
        factories.RoundPolicyFactory(model=model, sampler="champion")
        for name in (Alias.SAMPLER, Alias.CHAMPION):
            Alias.objects.update_or_create(model=model, name=name, defaults={"version": mean})
        judge(model)

        round_ = start(model)

        assert round_.parent == mean
        assert admin.get(reverse("round", args=[model.slug, round_.number])).status_code == 200
