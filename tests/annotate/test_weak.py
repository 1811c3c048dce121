from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from annotate import actions, drawing, queries, weak
from annotate.models import (
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    SamplingState,
    Split,
    WeakSpot,
)
from annotate.weak import Finding
from models_registry.engine.fake import FakeEngine
from models_registry.models import Alias, ModelVersion, RegisteredModel
from tests import factories

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def sampler(**policy: object) -> ModelVersion:
    """Make a ready model with this policy; return its sampler, v0."""
    model = factories.RegisteredModelFactory.create()
    JudgingPolicy.objects.filter(model=model).update(**policy)
    return ModelVersion.objects.get(model=model)


def prompts(version: ModelVersion, count: int, **fields: object) -> list[Prompt]:
    made = factories.PromptFactory.build_batch(count, model=version.model, **fields)
    return Prompt.objects.bulk_create(made)


def judged(prompt: Prompt, verdict: str, version: ModelVersion | None = None, **fields: object):
    """Let somebody judge a new pair of a prompt."""
    written = {"first__version": version, "second__version": version} if version else {}
    pair = factories.PairFactory.create(prompt=prompt, **written, **fields)
    return factories.JudgementFactory.create(assignment__pair=pair, verdict=verdict)


def newer(version: ModelVersion) -> ModelVersion:
    """Let v1 sample from now on."""
    found = factories.ModelVersionFactory.create(model=version.model, adapter=True)
    Alias.objects.filter(model=version.model, name=Alias.SAMPLER).update(version=found)
    return found


def spots(model: RegisteredModel) -> dict[str | int | None, WeakSpot]:
    weak.spots_refresh(now=NOW)
    found = WeakSpot.objects.filter(model=model)
    return {spot.tag or spot.prompt_id: spot for spot in found}


def draw(version: ModelVersion, limit: int = 1, seed: int = 1) -> list[drawing.Drawn]:
    policy = queries.policy_of(version.model)
    chance = random.Random(seed)
    return drawing.train_draw(
        model=version.model, version=version, policy=policy, limit=limit, chance=chance
    )


def fine(pair: int, version: int = 0, prompt: int | None = None, *tags: str) -> Finding:
    return Finding(pair_id=pair, version=version, prompt_id=prompt, tags=tags)


def bad(pair: int, version: int = 0, prompt: int | None = None, *tags: str) -> Finding:
    return Finding(pair, version, prompt, tags, failure="both_bad")


class TestSpotsOf:
    """By hand: usual = (failed + 1) / (judged + 10); smoothed = (failed + k · usual) / (judged + k)."""

    def test_are_what_fails_more_often_than_usual(self) -> None:
        findings = [bad(1, 0, 7), bad(2, 0, 7), *(fine(n, 0, n) for n in range(10, 28))]

        (spot,) = weak.spots_of(findings, newest=0)

        usual = (2 + 1) / (20 + 10)
        assert spot.prompt_id == 7
        assert spot.weakness == pytest.approx((2 + 3 * usual) / (2 + 3) - usual)
        assert (spot.judged, spot.both_bad, spot.pairs, spot.version_number) == (2, 2, [1, 2], 0)

    def test_are_not_made_by_one_judgement(self) -> None:
        findings = [bad(1, 0, 7, "maths"), *(fine(n, 0, n) for n in range(10, 100))]

        assert weak.spots_of(findings, newest=0) == []

    def test_are_not_made_of_a_model_that_fails_everywhere_alike(self) -> None:
        findings = [
            one(4 * n + k, 0, None, tag)
            for n, tag in enumerate("abcdefgh")
            for k, one in enumerate((bad, bad, bad, fine))
        ]

        assert weak.spots_of(findings, newest=0) == []

    def test_are_tags_too(self) -> None:
        findings = [bad(n, 0, None, "maths", "short") for n in range(5)]
        findings += [fine(n, 0, None, "short") for n in range(10, 60)]

        (spot,) = weak.spots_of(findings, newest=0)

        usual = (5 + 1) / (55 + 10)
        assert (spot.tag, spot.both_bad) == ("maths", 5)
        assert spot.weakness == pytest.approx((5 + 10 * usual) / (5 + 10) - usual)

    def test_fade_with_each_version(self) -> None:
        def found(newest: int) -> list[float]:
            elsewhere = [fine(n, newest, n) for n in range(10, 200)]
            findings = [bad(1, 0, 7), bad(2, 0, 7), *elsewhere]
            return [spot.weakness for spot in weak.spots_of(findings, newest=newest)]

        weakness = [found(newest) for newest in range(6)]
        assert all(a > b for a, b in itertools.pairwise(weakness[:5]))
        assert weakness[5] == []

    def test_end_when_a_newer_version_does_well(self) -> None:
        elsewhere = [fine(n, 1, n) for n in range(10, 30)]
        failed = [bad(1, 0, 7), bad(2, 0, 7)]

        assert weak.spots_of([*failed, *elsewhere], newest=1)
        assert not weak.spots_of([fine(3, 1, 7), *failed, *elsewhere], newest=1)
        # The same version, once good and twice bad, is still weak here.
        assert weak.spots_of([fine(3, 0, 7), *failed, *elsewhere], newest=1)


@pytest.mark.django_db
class TestSpotsRefresh:
    def test_finds_prompts_and_tags(self) -> None:
        version = sampler()
        one, *others = prompts(version, 12)
        hard = prompts(version, 4, tags=["maths"])
        for prompt in [one, one, *hard]:
            judged(prompt, "both_bad")
        for prompt in others:
            judged(prompt, "left")
        factories.JudgementFactory.create(verdict="both_bad")

        found = spots(version.model)

        assert set(found) == {one.pk, "maths"}
        assert found["maths"].prompt_count == 4
        assert set(found["maths"].prompt_ids) == {prompt.pk for prompt in hard}

    def test_takes_held_out_prompts_for_what_their_tags_say(self) -> None:
        version = sampler()
        for prompt in prompts(version, 10):
            judged(prompt, "left")
        held_out = factories.PromptFactory.create(
            model=version.model, split=Split.HOLDOUT, tags=["law"]
        )
        trained = factories.PromptFactory.create(model=version.model, tags=["law"])
        for _ in range(3):
            judged(held_out, "both_bad")

        found = spots(version.model)

        assert set(found) == {"law"}
        assert found["law"].prompt_ids == [trained.pk]

    def test_counts_lost_comparisons(self) -> None:
        version = sampler()
        candidate = newer(version)
        comparison = factories.ComparisonFactory.create(
            model=version.model, candidate=candidate, incumbent=version
        )
        for prompt in prompts(version, 10):
            judged(prompt, "left")
        for prompt in prompts(version, 4, split=Split.HOLDOUT, tags=["law"]):
            written = {"first__version": candidate, "second__version": version}
            fields = {"purpose": Pair.Purpose.COMPARE, "comparison": comparison}
            pair = factories.PairFactory.create(prompt=prompt, **written, **fields)
            won_by_the_old_one = "left" if pair.first.version == version else "right"
            factories.JudgementFactory.create(assignment__pair=pair, verdict=won_by_the_old_one)

        found = spots(version.model)

        assert (found["law"].lost, found["law"].version_number) == (4, 1)

    @pytest.mark.parametrize("purpose", ["gold", "repeat"])
    def test_leaves_out_what_measures_labelers(self, purpose: str) -> None:
        version = sampler()
        prompt, *others = prompts(version, 12)
        for other in others:
            judged(other, "left")
        for _ in range(3):
            judged(prompt, "both_bad", purpose=purpose)

        assert spots(version.model) == {}

    def test_leaves_out_what_was_taken_back(self) -> None:
        version = sampler()
        prompt, *others = prompts(version, 12)
        for other in others:
            judged(other, "left")
        failed = [judged(prompt, "both_bad") for _ in range(2)]
        assert set(spots(version.model)) == {prompt.pk}

        factories.JudgementFactory.create(
            assignment=failed[0].assignment, verdict="", revision=2, winner=None
        )

        assert spots(version.model) == {}

    def test_hears_where_a_new_version_disagrees(self) -> None:
        version = sampler()
        held_out = prompts(version, 4, split=Split.HOLDOUT, tags=["law"])
        prompts(version, 1, tags=["law"])
        pairs = [judged(prompt, "left").assignment.pair.pk for prompt in held_out]
        for prompt in prompts(version, 10):
            judged(prompt, "left")
        assert spots(version.model) == {}

        weak.disagreements_note(version=version, agreed=[], disagreed=pairs)

        assert spots(version.model)["law"].disagreed == 4

    def test_does_nothing_when_nothing_is_new(self) -> None:
        version = sampler()
        judged(prompts(version, 1)[0], "left")
        weak.spots_refresh(now=NOW)

        weak.spots_refresh(now=NOW + timedelta(minutes=1))
        assert SamplingState.objects.get().spots_at == NOW

        newer(version)
        weak.spots_refresh(now=NOW + timedelta(minutes=2))
        assert SamplingState.objects.get().spots_at == NOW + timedelta(minutes=2)

    def test_draws_a_tags_prompts_from_all_that_have_it(self, monkeypatch) -> None:
        """With more ids than are tried, the ready ones are a random part and the count is an estimate."""
        monkeypatch.setattr(weak, "TRIED", 60)
        monkeypatch.setattr(weak, "READY", 5)
        version = sampler()
        tagged = {prompt.pk for prompt in prompts(version, 100, tags=["maths"])}
        prompts(version, 100)

        ready, count = weak._ready(version.model, "maths", random.Random(1))
        other, _ = weak._ready(version.model, "maths", random.Random(2))

        assert len(set(ready)) == 5
        assert set(ready) <= tagged
        assert ready != other
        assert 60 <= count <= 140


def weakened(version: ModelVersion, *, singles: int = 0, tagged: int = 0) -> list[Prompt]:
    """Add prompts that are weak spots, and others with a tag that is one; return them."""
    found = prompts(version, singles)
    WeakSpot.objects.bulk_create(
        WeakSpot(model=version.model, prompt=prompt, weakness=0.4, judged=2, version_number=0)
        for prompt in found
    )
    if tagged:
        of_tag = prompts(version, tagged, tags=["maths"])
        WeakSpot.objects.create(
            model=version.model, tag="maths", weakness=0.4, judged=9, version_number=0,
            prompt_count=tagged, prompt_ids=[prompt.pk for prompt in of_tag],
        )  # fmt: skip
        found += of_tag
    return found


@pytest.mark.django_db
class TestTrainDraw:
    def test_goes_to_weak_spots_as_often_as_the_policy_says(self) -> None:
        version = sampler(weak_share=0.3)
        prompts(version, 150)
        weakened(version, singles=100, tagged=100)

        drawn = [one for seed in range(5) for one in draw(version, limit=150, seed=seed)]

        arms = Counter(one.arm for one in drawn)
        assert 0.25 < arms["weak"] / arms.total() < 0.35
        # Half of them for the sake of a tag.
        kinds = Counter(bool(one.prompt.tags) for one in drawn if one.arm == "weak")
        assert 0.4 < kinds[True] / kinds.total() < 0.6

    def test_says_how_probable_each_prompt_was(self) -> None:
        version = sampler(weak_share=0.3)
        prompts(version, 8)
        weakened(version, singles=1, tagged=2)
        chance = random.Random(1)

        odds = drawing.odds_of(model=version.model, policy=queries.policy_of(version.model))

        every = Prompt.objects.filter(model=version.model)
        probable = {prompt.pk: odds.of(prompt) for prompt in every}
        assert sum(probable.values()) == pytest.approx(1)
        drawn = Counter(
            pk for _ in range(4000) for pk in drawing.picked(odds.weights, wanted=1, chance=chance)
        )
        assert len(drawn) == 3
        for pk, probability in probable.items():
            of_the_weak = (probability - 0.7 / 11) / 0.3
            assert drawn[pk] / 4000 == pytest.approx(of_the_weak, abs=0.03)

    def test_is_uniform_without_weak_spots(self) -> None:
        version = sampler(weak_share=0.9)
        prompts(version, 5)

        drawn = draw(version, limit=4)

        assert {one.arm for one in drawn} == {"uniform"}
        assert {one.probability for one in drawn} == {1 / 5}

    def test_never_takes_a_held_out_prompt(self) -> None:
        version = sampler(weak_share=0.9)
        prompts(version, 3)
        (held_out,) = prompts(version, 1, split=Split.HOLDOUT)
        WeakSpot.objects.create(
            model=version.model, tag="law", weakness=0.4, judged=9, version_number=0,
            prompt_count=1, prompt_ids=[held_out.pk],
        )  # fmt: skip
        WeakSpot.objects.create(
            model=version.model, prompt=held_out, weakness=1, judged=9, version_number=0
        )

        drawn = [one for seed in range(50) for one in draw(version, limit=3, seed=seed)]

        assert held_out not in {one.prompt for one in drawn}
        assert {one.arm for one in drawn} == {"uniform"}

    def test_takes_each_prompt_once(self) -> None:
        version = sampler(weak_share=0.9)
        prompts(version, 2)
        weakened(version, singles=2)

        for seed in range(20):
            drawn = [one.prompt.pk for one in draw(version, limit=4, seed=seed)]
            assert len(drawn) == len(set(drawn)) == 4

    def test_lets_a_weak_prompt_rest_while_a_pair_of_it_waits(self) -> None:
        version = sampler(weak_share=0.9)
        prompts(version, 3)
        (spot,) = weakened(version, singles=1)
        assert any(one.arm == "weak" for seed in range(9) for one in draw(version, seed=seed))

        factories.QueueEntryFactory.create(pair__prompt=spot)

        assert not any(one.arm == "weak" for seed in range(50) for one in draw(version, seed=seed))

    def test_passes_over_a_refused_prompt(self) -> None:
        version = sampler(weak_share=0.9)
        prompts(version, 3)
        (spot,) = weakened(version, singles=1)
        Prompt.objects.filter(pk=spot.pk).update(refusal="Too long.")

        drawn = [one for seed in range(50) for one in draw(version, limit=4, seed=seed)]

        assert spot not in {one.prompt for one in drawn}


@pytest.mark.django_db
class TestTopUp:
    def test_stores_arm_and_probability(self) -> None:
        version = sampler(queue_target=40, weak_share=0.5, eval_share=0.1)
        prompts(version, 20)
        prompts(version, 4, split=Split.HOLDOUT)
        spots = weakened(version, singles=10)
        engine = FakeEngine(base=version.served_name)

        for _ in range(3):
            actions.pairs_top_up(model=version.model, engine=engine, chance=random.Random(2))

        of = {arm: Pair.objects.filter(arm=arm) for arm in ("uniform", "weak")}
        assert set(of["weak"].values_list("prompt", flat=True)) <= {spot.pk for spot in spots}
        assert set(of["weak"].values_list("purpose", flat=True)) == {"train"}
        assert all(0 < pair.drawn_with <= 1 for pair in Pair.objects.all())
        evals = of["uniform"].filter(purpose="eval")
        assert set(evals.values_list("drawn_with", flat=True)) == {1 / 4}

    def test_cannot_put_held_out_prompts_into_the_weak_arm(self) -> None:
        (prompt,) = prompts(sampler(), 1, split=Split.HOLDOUT)

        with pytest.raises(IntegrityError), transaction.atomic():
            factories.PairFactory.create(prompt=prompt, arm="weak")

    def test_makes_up_for_no_ancient_share(self) -> None:
        """A thousand train pairs of old do not mean a hundred held-out ones in a row."""
        version = sampler(eval_share=0.1, queue_target=100)
        prompts(version, 30)
        prompts(version, 30, split=Split.HOLDOUT)
        SamplingState.objects.create(model=version.model, train_pairs=200, eval_pairs=0)
        engine = FakeEngine(base=version.served_name)

        for _ in range(12):
            actions.pairs_top_up(model=version.model, engine=engine, chance=random.Random(1))

        state = SamplingState.objects.get()
        assert state.train_pairs + state.eval_pairs <= 200.001
        assert Pair.objects.filter(purpose="eval").count() <= 30

    def test_goes_through_all_prompts_before_it_asks_one_again(self) -> None:
        version = sampler(queue_target=1000, weak_share=0, eval_share=0, pairs_per_prompt=1)
        prompts(version, 25)
        engine = FakeEngine(base=version.served_name)

        for _ in range(4):
            actions.pairs_top_up(model=version.model, engine=engine, chance=random.Random(1))

        asked = Prompt.objects.values_list("asked", flat=True)
        assert max(asked) - min(asked) <= 1
        assert set(Prompt.objects.values_list("asked_by", flat=True)) == {0}

    def test_begins_anew_with_a_new_version(self) -> None:
        version = sampler()
        one, other, third = prompts(version, 3)
        Prompt.objects.filter(pk=one.pk).update(asked_by=0, asked=5)
        Prompt.objects.filter(pk=other.pk).update(asked_by=1, asked=1)

        def order(number: int) -> list[Prompt]:
            by = ModelVersion.objects.get(number=number)
            return queries.prompts_to_sample(
                model=version.model, version=by, split=Split.TRAIN, limit=9
            )

        newer(version)
        assert order(1)[-1] == other
        assert set(order(1)[:2]) == {one, third}
        assert order(0)[-1] == one

    def test_needs_as_many_statements_for_many_prompts(self) -> None:
        version = sampler(queue_target=6)

        def statements() -> int:
            policy = queries.policy_of(version.model)
            with CaptureQueriesContext(connection) as captured:
                actions._next_batch(
                    model=version.model, version=version, policy=policy, chance=random.Random(1)
                )
            return len(captured)

        prompts(version, 3)
        weakened(version, singles=1, tagged=2)
        few = statements()
        prompts(version, 60)
        weakened(version, singles=30)
        assert statements() <= few + 1


@pytest.mark.django_db
class TestPage:
    @pytest.fixture
    def admin(self) -> Client:
        client = Client()
        client.force_login(factories.UserFactory.create(is_staff=True))
        return client

    def test_says_that_nothing_stands_out(self, admin: Client) -> None:
        version = sampler()

        page = admin.get(f"/models/{version.model.slug}/prompts/").text

        assert "No weak spots yet" in page

    def test_lists_tags_and_prompts_with_their_pairs(self, admin: Client) -> None:
        version = sampler(weak_share=0.25)
        (prompt,) = prompts(version, 1, messages=[{"role": "user", "content": "<b>Why?</b>"}])
        WeakSpot.objects.create(
            model=version.model, prompt=prompt, weakness=0.4, judged=8, both_bad=5,
            version_number=3, pairs=[77],
        )  # fmt: skip
        WeakSpot.objects.create(
            model=version.model, tag="a&b", weakness=0.3, judged=9, lost=4, version_number=3
        )

        page = admin.get(f"/models/{version.model.slug}/prompts/").text

        shown = page.split("Where the model does badly")[1].split("All prompts")[0]
        assert "25%" in shown
        assert "&lt;b&gt;Why?&lt;/b&gt;" in shown
        assert f"/models/{version.model.slug}/pairs/77/" in shown
        assert "?tag=a%26b" in shown
        assert "v3" in shown

    def test_is_nothing_for_labelers(self, client: Client) -> None:
        version = sampler()
        client.force_login(factories.MembershipFactory.create(model=version.model).user)

        assert client.get(f"/models/{version.model.slug}/prompts/").status_code == 404


def test_rested_pairs_do_not_count_as_waiting_of_another_version(db: None) -> None:
    version = sampler()
    other = factories.ModelVersionFactory.create(model=version.model, adapter=True)
    for written, priority in ((version, 0), (other, 3)):
        pair = factories.PairFactory.create(
            prompt__model=version.model, first__version=written, second__version=written
        )
        QueueEntry.objects.create(pair=pair, model=version.model, priority=priority, wanted=1)

    assert queries.pairs_missing(version=version, target=5) == 4
    assert queries.pairs_missing(version=other, target=5) == 4
    assert queries.pairs_missing(version=other, target=1) == 0


class TestMigration:
    def test_goes_on_where_the_sampling_of_a_database_in_use_is(self, db: None) -> None:
        version = sampler()
        asked, fresh, held_out = prompts(version, 3)
        Prompt.objects.filter(pk=held_out.pk).update(split=Split.HOLDOUT)
        held_out.refresh_from_db()
        Prompt.objects.filter(pk=fresh.pk).update(created_at=NOW)
        for _ in range(3):
            factories.PairFactory.create(prompt=asked)
        factories.PairFactory.create(prompt=held_out)
        greedy = factories.CompletionFactory.create(prompt=fresh)
        greedy.sampling |= {"use": "evaluation"}
        greedy.save()
        migration = import_module("annotate.migrations.0009_weak")

        with connection.cursor() as cursor:
            cursor.execute(migration.REMEMBER)

        state = SamplingState.objects.get(model=version.model)
        assert (state.train_pairs, state.eval_pairs) == (3, 1)
        found = Prompt.objects.in_bulk()
        # Each completion of a factory has a seed of its own.
        assert (found[asked.pk].asked_by, found[asked.pk].asked) == (0, 6)
        assert (found[fresh.pk].asked_by, found[fresh.pk].asked) == (-1, 0)
        assert int(found[fresh.pk].place) == NOW.timestamp() // 60
