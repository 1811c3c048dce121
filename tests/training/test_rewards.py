from __future__ import annotations

from pathlib import Path

import pytest
from django.urls import reverse

from annotate.models import Completion, Pair, SamplingState, Split, Verdict
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import EngineFailed
from models_registry.models import ModelVersion
from tests import factories
from tests.models_registry.adapters import adapter_make
from tests.training.conftest import judge
from tests.training.test_actions import begin, finish, start
from training import presets, queries, rewards
from training.models import AnswerScore, Round

pytestmark = pytest.mark.django_db

#: Two answers of one prompt: nats of their tokens under the base and under v1.
GOOD = {"completion_ids": [4, 5], "base": [-1.0, -2.0], "adapter": [-0.5, -1.0]}
BAD = {"completion_ids": [6, 7, 8], "base": [-1.0, -1.0, -1.0], "adapter": [-2.0, -1.5, -1.0]}


@pytest.fixture
def version(model, places: Path) -> ModelVersion:
    judge(model)
    return finish(begin(start(model)), places)


@pytest.fixture
def base(model) -> ModelVersion:
    return model.versions.get(number=0)


@pytest.fixture
def engine(version, base, places: Path) -> FakeEngine:
    """An engine that computes the numbers above."""
    rows = [row | {"prompt_ids": [1, 2, 3]} for row in (GOOD, BAD)]
    adapter_make(places / "adapter", rows=rows)
    engine = FakeEngine(base=base.served_name)
    engine.adapter_load(name=version.served_name, path=str(places / "adapter"))
    return engine


def held_out(model, *, verdict: str = Verdict.LEFT) -> tuple[Completion, Completion]:
    """Have two answers to a held-out prompt judged; the first is the left one."""
    prompt = factories.PromptFactory(model=model, split=Split.HOLDOUT)
    first, second = (
        factories.CompletionFactory(prompt=prompt, completion_ids=row["completion_ids"])
        for row in (GOOD, BAD)
    )
    pair = factories.PairFactory(prompt=prompt, first=first, second=second)
    factories.JudgementFactory(assignment__pair=pair, verdict=verdict)
    return first, second


def score(version, base, engine, *examples: int) -> None:
    rewards.answers_score(version=version, base=base, engine=engine, examples=examples)


def scores(version) -> dict[int, float]:
    scored = AnswerScore.objects.filter(version=version)
    return dict(scored.values_list("completion_id", "log_ratio"))


class TestAnswersScore:
    def test_sums_over_an_answers_tokens(self, model, version, base, engine) -> None:
        good, bad = held_out(model)

        score(version, base, engine)

        # (-.5 - 1) - (-1 - 2), and (-2 - 1.5 - 1) - (-3).
        assert scores(version) == {good.pk: 1.5, bad.pk: -1.5}
        assert AnswerScore.objects.get(completion=bad).tokens == 3

    def test_takes_examples_as_well(self, model, version, base, engine) -> None:
        example = factories.CompletionFactory(prompt__model=model)

        score(version, base, engine, example.pk, example.pk)

        assert set(scores(version)) == {example.pk}

    def test_asks_nothing_twice(self, model, version, base, engine) -> None:
        held_out(model)
        score(version, base, engine)
        engine.up = False

        score(version, base, engine)

        assert len(scores(version)) == 2

    def test_passes_over_what_nobody_can_score(self, model, version, base, engine) -> None:
        good, _ = held_out(model)
        Completion.objects.filter(pk=good.pk).update(
            origin="import", version=None, prompt_ids=None, completion_ids=None
        )
        long = factories.CompletionFactory(prompt__model=model, completion_ids=[1] * 3000)
        empty = factories.CompletionFactory(prompt__model=model, completion_ids=[])

        score(version, base, engine, long.pk, empty.pk)

        assert good.pk not in scores(version)
        assert not {long.pk, empty.pk} & set(scores(version))

    def test_keeps_what_it_has_when_the_engine_dies(
        self, model, version, base, engine, monkeypatch
    ) -> None:
        held_out(model)
        monkeypatch.setattr(rewards, "REQUESTS", 1)
        asked: list[str] = []
        answer = engine.score

        def once(*, model: str, **ids) -> tuple[float, ...]:
            asked.append(model)
            if len(asked) > 2:
                raise EngineFailed
            return answer(model=model, **ids)

        monkeypatch.setattr(engine, "score", once)

        with pytest.raises(EngineFailed):
            score(version, base, engine)

        assert len(scores(version)) == 1

    def test_has_a_bound(self, model, version, base, engine, monkeypatch) -> None:
        monkeypatch.setattr(rewards, "MOST_PAIRS", 2)
        for _ in range(3):
            newest = held_out(model)

        score(version, base, engine)

        assert len(scores(version)) == 4
        assert newest[0].pk in scores(version)


class TestRatingsOf:
    def test_multiplies_by_the_rounds_beta(self, model, version, base, engine) -> None:
        held_out(model)
        score(version, base, engine)
        version.made_by.spec["loss"]["beta"] = 0.2

        found = rewards.ratings_of(version.made_by)

        (pair,) = found.pairs
        assert (pair.good, pair.bad) == (pytest.approx(0.3), pytest.approx(-0.3))
        assert pair.margin == pytest.approx(0.6)
        assert (found.agreed, found.share, found.interval) == (1, None, None)

    def test_means_over_tokens_where_the_loss_does(self, model, version, base, engine) -> None:
        good, _ = held_out(model)
        score(version, base, engine)
        tokens = AnswerScore.objects.get(completion=good).tokens
        version.made_by.spec["loss"] = presets.loss_of("length", beta=None, ties=False)

        (pair,) = rewards.ratings_of(version.made_by).pairs

        assert tokens > 1
        assert pair.good == pytest.approx(5.0 * 1.5 / tokens)

    def test_puts_the_worst_disagreement_first(self, model, version, base, engine) -> None:
        held_out(model)
        # Labelers found the other one better.
        held_out(model, verdict=Verdict.RIGHT)
        score(version, base, engine)

        found = rewards.ratings_of(version.made_by)

        assert [pair.agrees for pair in found.pairs] == [False, True]
        assert found.pairs[0].margin == pytest.approx(0.1 * -3.0)
        assert found.agreed == 1

    def test_leaves_out_ties_and_what_was_judged_since(self, model, version, base, engine) -> None:
        held_out(model, verdict=Verdict.TIE)
        score(version, base, engine)
        held_out(model)

        assert rewards.ratings_of(version.made_by).pairs == ()

    def test_shows_a_share_once_it_means_something(self, model, version, base, engine) -> None:
        for number in range(queries.LEAST_HOLDOUT):
            held_out(model, verdict=Verdict.LEFT if number % 3 else Verdict.RIGHT)
        score(version, base, engine)

        found = rewards.ratings_of(version.made_by)

        assert (found.agreed, found.share) == (20, pytest.approx(2 / 3))
        assert found.interval == pytest.approx((0.488, 0.808), abs=1e-3)


class TestPages:
    @pytest.fixture
    def admin(self, client):
        client.force_login(factories.UserFactory(is_staff=True))
        return client

    def test_show_rewards_of_a_version(self, admin, model, version, base, engine) -> None:
        for _ in range(4):
            held_out(model, verdict=Verdict.RIGHT)
        score(version, base, engine)

        page = admin.get(reverse("version", args=[model.slug, 1])).text

        assert "agrees with the labelers on 0 of 4" in " ".join(page.split())
        assert "Good answer, reward -0.15" in page
        assert "Bad answer, reward +0.15" in page
        assert page.count("Disagrees with the labelers") == 4
        assert "100%" not in page

    def test_say_why_there_are_none(self, admin, model, version) -> None:
        Round.objects.update(state=Round.State.SUCCEEDED)

        page = admin.get(reverse("version", args=[model.slug, 1])).text

        assert "no held-out pair had been judged" in " ".join(page.split())

    def test_show_rewards_of_a_rounds_examples(self, admin, model, version, base, engine) -> None:
        good, bad = held_out(model)
        score(version, base, engine)
        round_ = version.made_by
        round_.evaluation = {
            "prompts": 1, "changed": 1, "shorter": 0, "longer": 1, "examples": [{"before": good.pk, "after": bad.pk}],
            "kl_base": {"k1": 0.0, "k3": 0.0},
        } | {
            who: {"answers": 1, "tokens_mean": 2.0, "eos_rate": 1.0, "distinct2": 1.0}
            for who in ("version", "parent", "base")
        }  # fmt: skip
        round_.save()

        page = admin.get(reverse("round", args=[model.slug, round_.number])).text

        assert "v0, before, reward +0.15" in page
        assert "v1, after, reward -0.15" in page


class TestDisagreementsTell:
    def test_tells_the_sampling_on_which_pairs(self, model, version, base, engine) -> None:
        good, _ = held_out(model)
        bad, _ = held_out(model, verdict=Verdict.RIGHT)
        score(version, base, engine)

        rewards.disagreements_tell(Round.objects.get())

        told = SamplingState.objects.get(model=model)
        agreed, disagreed = (Pair.objects.get(first=first).pk for first in (good, bad))
        assert told.disagreements == {
            "version": version.number, "agreed": [agreed], "disagreed": [disagreed],
        }  # fmt: skip
        # The spots are computed anew.
        assert told.spots_at is None
