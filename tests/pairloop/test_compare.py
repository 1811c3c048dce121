from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from django.test import Client

from annotate import judging, queries
from annotate.models import Pair, Prompt, Split
from models_registry import serving
from models_registry.models import Comparison, ModelVersion, Outcome
from models_registry.queries import EngineProgress, Stage
from pairloop.lib import jobs
from pairloop.pages import compare_queries
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
URL = "/models/demo/compare/"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(factories.UserFactory.create(is_staff=True, username="ada"))
    return client


@pytest.fixture
def version() -> ModelVersion:
    """v1 beside v0, the champion."""
    return factories.ModelVersionFactory.create(adapter=True, model__slug="demo")


@pytest.fixture
def engine_runs(version: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of ours is ready and has loaded both versions."""
    monkeypatch.setattr(
        "models_registry.queries.engine_progress",
        lambda slug: EngineProgress((Stage("Start vLLM", "done", "", 0),)),
    )
    for one in (version, version.parent):
        factories.ServingFactory.create(version=one, engine=serving.urls()[0], loaded_at=NOW)


def prompt(version: ModelVersion, **fields: object) -> Prompt:
    return factories.PromptFactory.create(model=version.model, split=Split.HOLDOUT, **fields)


def answered(version: ModelVersion, before: str, after: str, **fields: object) -> Prompt:
    """Make a held-out prompt with the likeliest answers of v0 and v1, as long as their words."""
    asked = prompt(version, **fields)
    sampling = queries.evaluation_sampling(
        queries.sampling_greedy(queries.policy_of(version.model))
    )
    for one, text in ((version.parent, before), (version, after)):
        factories.CompletionFactory.create(
            prompt=asked, version=one, text=text, sampling=sampling,
            completion_ids=list(range(len(text.split()))),
        )  # fmt: skip
    return asked


def judged(
    version: ModelVersion, verdict: str, *, asked: Prompt | None = None, **said: object
) -> Pair:
    """Let somebody judge an answer of v0, on the left, against one of v1."""
    comparison = Comparison.objects.first() or factories.ComparisonFactory.create(
        model=version.model
    )
    asked = asked or prompt(version)
    first = factories.CompletionFactory.create(
        prompt=asked, version=version.parent, text="sampled old"
    )
    second = factories.CompletionFactory.create(prompt=asked, version=version, text="sampled new")
    pair = factories.PairFactory.create(
        prompt=asked, first=first, second=second, purpose="compare", comparison=comparison
    )
    lease = factories.AssignmentFactory.create(pair=pair)
    judging.judgement_record(assignment=lease, verdict=verdict, now=NOW, **said)
    return pair


class TestAccess:
    @pytest.mark.parametrize("path", ["", "ask/", "answers/", "1/close/"])
    def test_is_hidden_from_labelers(
        self, client: Client, version: ModelVersion, path: str
    ) -> None:
        client.force_login(factories.MembershipFactory.create(model=version.model).user)

        assert client.get(URL + path).status_code == 404
        if path:
            assert client.post(URL + path, {"prompts": 1}).status_code == 404

    @pytest.mark.parametrize(
        "query",
        ["?candidate=9", "?candidate=x", "?candidate=1&against=9", "?candidate=1&against=x"],
    )
    def test_is_missing_for_versions_that_are_not_there(
        self, admin: Client, version: ModelVersion, query: str
    ) -> None:
        assert admin.get(URL + query).status_code == 404

    def test_closes_no_comparison_of_another_model(
        self, admin: Client, version: ModelVersion
    ) -> None:
        other = factories.ComparisonFactory.create()

        assert admin.post(f"{URL}{other.pk}/close/").status_code == 404
        assert Comparison.objects.get().is_open


class TestEmptyPage:
    def test_says_how_a_second_version_comes_about(self, admin: Client) -> None:
        factories.RegisteredModelFactory.create(slug="demo")

        page = admin.get(URL).text

        assert "start a round" in page
        assert admin.post(f"{URL}ask/", {"prompts": 1}).status_code == 404

    @pytest.mark.parametrize(
        ("state", "said"), [("preparing", "being prepared"), ("failed", "No tokenizer.")]
    )
    def test_says_why_there_is_no_version(self, admin: Client, state: str, said: str) -> None:
        factories.RegisteredModelFactory.create(
            slug="demo", state=state, failure="No tokenizer.", sampler=None, champion=None
        )

        assert said in admin.get(URL).text

    def test_says_that_no_prompt_is_held_out(self, admin: Client, version: ModelVersion) -> None:
        page = admin.get(URL).text

        assert "No prompt is held out yet" in page
        assert "Ask labelers" not in page


class TestChoice:
    def test_is_the_newest_version_against_the_champion(
        self, admin: Client, version: ModelVersion
    ) -> None:
        factories.ModelVersionFactory.create(
            model=version.model, number=2, kind="adapter", parent=version
        )

        page = admin.get(URL)

        assert (page.context["candidate"].number, page.context["incumbent"].number) == (2, 0)

    def test_takes_the_parent_where_the_champion_is_the_candidate(
        self, admin: Client, version: ModelVersion
    ) -> None:
        newer = factories.ModelVersionFactory.create(
            model=version.model, number=2, kind="adapter", parent=version
        )
        version.model.aliases.filter(name="champion").update(version=newer)

        assert admin.get(f"{URL}?candidate=2").context["incumbent"] == version

    def test_takes_any_two_and_nonsense_for_nothing(
        self, admin: Client, version: ModelVersion
    ) -> None:
        page = admin.get(f"{URL}?candidate=0&against=1&show=x&view=x&text=x&n=-3")

        assert page.status_code == 200
        assert (page.context["candidate"].number, page.context["incumbent"].number) == (0, 1)
        assert page.context["look"].show == "all"
        assert page.context["first"] == 1


class TestSideBySide:
    def test_marks_the_difference_of_hostile_answers(
        self, admin: Client, version: ModelVersion
    ) -> None:
        answered(version, f"same {HOSTILE}", "same words")

        for text in ("differences", "rendered"):
            page = admin.get(f"{URL}?candidate=1&text={text}").text
            assert "<script>alert" not in page
            assert "<img" not in page
        marked = admin.get(f"{URL}?candidate=1").text
        assert "<ins>words</ins>" in marked
        assert "&lt;script&gt;" in marked

    def test_steps_through_the_prompts(self, admin: Client, version: ModelVersion) -> None:
        for n in range(3):
            answered(version, f"before-{n}", f"after-{n}")

        first = admin.get(f"{URL}?candidate=1")
        second = admin.get(URL + first.context["next"])
        last = admin.get(URL + second.context["next"])

        assert "1 of 3" in " ".join(first.text.split())
        assert not first.context["previous"]
        assert not last.context["next"]
        seen = [page.context["rows"][0].prompt for page in (first, second, last)]
        assert len(set(seen)) == 3
        assert admin.get(URL + last.context["previous"]).context["rows"] == second.context["rows"]

    def test_stays_at_the_last_prompt(self, admin: Client, version: ModelVersion) -> None:
        answered(version, "a", "b")

        assert admin.get(f"{URL}?candidate=1&n=99").context["first"] == 1

    def test_lists_many_at_once(self, admin: Client, version: ModelVersion) -> None:
        for n in range(22):
            answered(version, f"before-{n}", f"after-{n}")

        page = admin.get(f"{URL}?candidate=1&view=list")

        assert len(page.context["rows"]) == 20
        assert len(admin.get(URL + page.context["next"]).context["rows"]) == 2

    def test_gives_htmx_the_part_that_it_asks_for(
        self, admin: Client, version: ModelVersion
    ) -> None:
        answered(version, "a", "b")

        side = admin.get(URL, headers={"HX-Request": "true", "HX-Target": "side"})
        back = admin.get(URL, headers={"HX-Request": "true", "HX-History-Restore-Request": "true"})

        assert side.text.strip().startswith("<section")
        assert "HX-Target" in side["Vary"]
        assert back.text.startswith("<!doctype html>") or "<html" in back.text

    @pytest.mark.parametrize(
        ("show", "left"),
        [
            ("all", {"one two", "one two three", "one", "two"}),
            ("changed", {"one two three", "one", "two"}),
            ("same", {"one two"}),
            ("shorter", {"one"}),
            ("longer", {"one two three"}),
        ],
    )
    def test_filters_by_what_changed(
        self, admin: Client, version: ModelVersion, show: str, left: set[str]
    ) -> None:
        for after in ("one two", "one two three", "one"):
            answered(version, "one two", after)
        answered(version, "one", "two")

        page = admin.get(f"{URL}?candidate=1&view=list&show={show}")

        assert {row.after.text for row in page.context["rows"]} == left
        counts = {
            link.url.split("show=")[1].split("&")[0]: link.count for link in page.context["filters"]
        }
        assert counts[show] == len(left)

    def test_filters_by_tag(self, admin: Client, version: ModelVersion) -> None:
        answered(version, "a", "b", tags=["code"])
        answered(version, "c", "d", tags=["a&b"])

        page = admin.get(f"{URL}?candidate=1&view=list&tag=a%26b")

        assert [row.before.text for row in page.context["rows"]] == ["c"]
        assert [link.title for link in page.context["tags"]] == ["any tag", "a&b", "code"]
        assert admin.get(f"{URL}?candidate=1&tag=none").context["count"] == 0

    @pytest.mark.parametrize(
        ("verdict", "show"),
        [
            ("right", "won"),
            ("right_much", "won"),
            ("left", "lost"),
            ("tie", "tie"),
            ("both_bad", "both_bad"),
        ],
    )
    def test_filters_by_what_labelers_said_of_what_they_saw(
        self, admin: Client, version: ModelVersion, verdict: str, show: str
    ) -> None:
        asked = answered(version, "greedy old", "greedy new")
        judged(version, verdict, asked=asked)
        judged(version, "cannot_judge")

        page = admin.get(f"{URL}?candidate=1&show={show}&view=list")

        (row,) = page.context["rows"]
        assert (row.before.text, row.after.text) == ("sampled old", "sampled new")
        others = {"won", "lost", "tie", "both_bad"} - {show}
        for other in others:
            assert admin.get(f"{URL}?candidate=1&show={other}").context["count"] == 0

    def test_counts_a_judgement_for_the_other_side_when_they_are_swapped(
        self, admin: Client, version: ModelVersion
    ) -> None:
        judged(version, "right")

        page = admin.get(f"{URL}?candidate=0&against=1&show=lost")

        assert page.context["count"] == 1

    def test_shows_what_labelers_noted(self, admin: Client, version: ModelVersion) -> None:
        judged(version, "right", note=HOSTILE, reasons=["clearer"])

        page = admin.get(f"{URL}?candidate=1&show=won").text

        assert "v1 is better (clearer)" in " ".join(page.split())
        assert "&lt;script&gt;" in page
        assert "<script>alert" not in page

    def test_prefers_the_likeliest_answers(self, admin: Client, version: ModelVersion) -> None:
        asked = answered(version, "greedy old", "greedy new")
        judged(version, "right", asked=asked)
        judged(version, "left")

        page = admin.get(f"{URL}?candidate=1&view=list")

        assert [row.after.text for row in page.context["rows"]] == ["greedy new", "sampled new"]

    def test_costs_the_same_however_many_prompts_there_are(
        self, admin: Client, version: ModelVersion, django_assert_max_num_queries
    ) -> None:
        for n in range(6):
            judged(version, "right", asked=answered(version, f"a{n}", f"b{n}"))

        with django_assert_max_num_queries(26):
            admin.get(f"{URL}?candidate=1&view=list")


class TestMissingAnswers:
    def test_are_under_way_while_a_version_is_measured(
        self, admin: Client, version: ModelVersion, engine_runs: None
    ) -> None:
        prompt(version)
        factories.RoundFactory.create(model=version.model, version=version, state="evaluating")

        page = admin.get(URL).text

        assert "The engine is writing them: 2 to go." in page
        assert "Have the engine write them" not in page

    def test_are_offered_where_the_engine_can_write_them(
        self, admin: Client, version: ModelVersion, engine_runs: None, no_jobs: None
    ) -> None:
        prompt(version)

        page = admin.get(URL).text
        assert "v1 lacks 1 and v0 lacks 1 of the 1 answers" in page
        assert "Have the engine write them" in page

        for _ in range(2):
            assert admin.post(f"{URL}answers/?candidate=1&against=0").status_code == 302
        assert jobs.ProcrastinateJob.objects.count() == 1

        page = admin.get(URL).text
        assert "The engine is writing them: 2 to go." in page
        assert 'hx-trigger="every 3s"' in page
        assert "Have the engine write them" not in page

    def test_say_who_is_not_loaded(
        self, admin: Client, version: ModelVersion, engine_runs: None
    ) -> None:
        prompt(version)
        version.servings.all().delete()

        page = admin.get(URL).text

        assert "v1 is not in the engine now" in page
        assert "Have the engine write them" not in page

    @pytest.mark.parametrize(
        ("state", "said"),
        [("failed", "The engine does not run: No memory."), ("running", "The engine is starting")],
    )
    def test_say_why_nobody_can_write_them(
        self,
        admin: Client,
        version: ModelVersion,
        monkeypatch: pytest.MonkeyPatch,
        state: str,
        said: str,
    ) -> None:
        prompt(version)
        monkeypatch.setattr(
            "models_registry.queries.engine_progress",
            lambda slug: EngineProgress((Stage("Start vLLM", state, "No memory.", None),)),
        )

        assert said in admin.get(URL).text


class TestAsk:
    def test_opens_a_comparison_once(self, admin: Client, version: ModelVersion) -> None:
        prompt(version)
        address = f"{URL}ask/?candidate=1&against=0"

        answer = admin.post(address, {"prompts": 1})
        again = admin.post(address, {"prompts": 1})

        assert answer.status_code == 302
        assert again.status_code == 409
        assert "being compared already" in again.text
        comparison = Comparison.objects.get()
        assert (comparison.budget, comparison.created_by.username) == (1, "ada")
        assert "0 of at most 1 prompts judged" in " ".join(
            admin.get(answer["Location"]).text.split()
        )

    @pytest.mark.parametrize(
        ("prompts", "status", "said"),
        [
            ("", 422, "Say on how many prompts."),
            ("many", 422, "as a whole number"),
            ("9", 409, "Choose 1 to 1 prompts; 1 are held out."),
        ],
    )
    def test_keeps_what_was_typed(
        self, admin: Client, version: ModelVersion, prompts: str, status: int, said: str
    ) -> None:
        prompt(version)

        page = admin.post(f"{URL}ask/?candidate=1&against=0", {"prompts": prompts})

        assert page.status_code == status
        assert said in page.text
        if prompts:
            assert f'value="{prompts}"' in page.text

    @pytest.mark.parametrize("path", ["ask/", "answers/"])
    def test_comes_back_after_a_login_in_between(
        self, admin: Client, version: ModelVersion, path: str
    ) -> None:
        answer = admin.get(f"{URL}{path}?candidate=1&against=0")

        assert answer["Location"].startswith(f"{URL}?candidate=1&against=0")

    def test_is_not_offered_for_unverified_versions(
        self, admin: Client, version: ModelVersion
    ) -> None:
        prompt(version)
        ModelVersion.objects.filter(pk=version.pk).update(state="retired")

        page = admin.get(f"{URL}?candidate=1&against=0").text

        assert "only be asked about verified versions" in page


class TestClose:
    def test_stops_asking(self, admin: Client, version: ModelVersion) -> None:
        comparison = factories.ComparisonFactory.create(model=version.model)
        assert admin.get(f"{URL}{comparison.pk}/close/").status_code == 302
        assert Comparison.objects.get().is_open

        page = admin.post(f"{URL}{comparison.pk}/close/", follow=True)

        assert "not asked any more" in page.text
        assert "It was closed" in " ".join(page.text.split())
        assert Comparison.objects.get().state == "closed"


def outcomes(version: ModelVersion, wins: int, losses: int) -> None:
    comparison = factories.ComparisonFactory.create(model=version.model)
    labelers = factories.UserFactory.create_batch(4)
    Outcome.objects.bulk_create(
        Outcome(
            comparison=comparison, kind="win", source=uuid.uuid4(), recorded_at=NOW,
            winner=version if n < wins else version.parent, labeler=labelers[n % 4],
            prompt_key=factories.sha256(str(n)),
        )
        for n in range(wins + losses)
    )  # fmt: skip


class TestFinding:
    def test_is_promotable(self, admin: Client, version: ModelVersion) -> None:
        outcomes(version, wins=219, losses=153)

        page = " ".join(admin.get(URL).text.split())

        assert "wins 58.9% [53.8, 63.8] of 372 decisive votes" in page
        assert "evidence 76× (20× needed)" in page  # noqa: RUF001
        assert "promotable" in page
        assert "Promote v1 on its page" in page

    def test_says_what_it_would_take(self, admin: Client, version: ModelVersion) -> None:
        outcomes(version, wins=6, losses=4)

        page = admin.get(URL).text

        assert "after about 213 decisive votes" in page
        assert "10 of at least 100 decisive votes." in page
        assert "Promote v1" not in page

    @pytest.mark.parametrize(
        ("wins", "losses", "said"),
        [
            (0, 0, "No decisive vote yet."),
            (5, 5, "no number of votes would prove it better"),
            (10, 40, "wins less than 53 %"),
        ],
    )
    def test_says_why_it_is_not(
        self, admin: Client, version: ModelVersion, wins: int, losses: int, said: str
    ) -> None:
        outcomes(version, wins=wins, losses=losses)

        assert said in admin.get(URL).text

    def test_stands_beside_the_promotion(self, admin: Client, version: ModelVersion) -> None:
        page = admin.get("/models/demo/versions/1/").text
        assert "No labeler has judged v1 against v0 yet." in page
        assert "without evidence" in page
        assert f"{URL}?candidate=1&amp;against=0" in page

        admin.post("/models/demo/versions/1/promote/", {"reason": "It won."})

        assert "without evidence" in admin.get("/models/demo/versions/").text

    def test_is_kept_in_the_history(self, admin: Client, version: ModelVersion) -> None:
        outcomes(version, wins=90, losses=30)

        admin.post("/models/demo/versions/1/promote/", {"reason": "It won."})

        assert "all conditions held" in admin.get("/models/demo/versions/").text


class TestMeasurements:
    def test_come_from_each_versions_evaluation(self, admin: Client, version: ModelVersion) -> None:
        numbers = {"answers": 72, "tokens_mean": 61.23, "eos_rate": 0.93, "distinct2": 0.81}
        base = numbers | {"tokens_mean": 71.9}
        ModelVersion.objects.filter(pk=version.pk).update(
            metrics={"evaluation": {"version": numbers, "kl_base": {"k1": 1.234, "k3": 1}}}
        )
        factories.RoundFactory.create(model=version.model, evaluation={"base": base})
        version.refresh_from_db()

        rows = compare_queries.measurements_of(version, version.parent)

        assert [(row.title, row.before, row.after) for row in rows] == [
            ("Tokens of an answer", "71.9", "61.2"),
            ("End by themselves", "93%", "93%"),
            ("Distinct word pairs", "81%", "81%"),
            ("Nats from the base", "0.00", "1.23"),
        ]

    def test_are_missed_where_one_was_not_measured(
        self, admin: Client, version: ModelVersion
    ) -> None:
        assert "Not both of them were measured" in admin.get(URL).text


class TestHome:
    def test_leads_to_the_comparison(self, admin: Client, version: ModelVersion) -> None:
        judged(version, "right")

        page = admin.get("/").text

        assert f'href="{URL}"' in page
        assert "1/100" in page
        assert "judged of v1 against v0" in page
