from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from django.db.models import F

from annotate import actions, judging, queries
from annotate.models import (
    Completion,
    Drop,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    Split,
)
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import EngineFailed, EngineRejected
from models_registry.models import Alias, ModelVersion
from pairloop.lib import jobs
from tests import factories

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def sampler(**policy: object) -> ModelVersion:
    """Make a ready model with this policy; return its sampler, v0."""
    model = factories.RegisteredModelFactory.create()
    JudgingPolicy.objects.filter(model=model).update(**policy)
    return ModelVersion.objects.get(model=model)


def top_up(version: ModelVersion, engine: FakeEngine) -> actions.TopUp:
    return actions.pairs_top_up(model=version.model, engine=engine, chance=random.Random(1))


def waiting(version: ModelVersion, pairs: int, wanted: int = 1) -> None:
    """Queue some pairs of one version."""
    for _ in range(pairs):
        pair = factories.PairFactory.create(prompt__model=version.model)
        QueueEntry.objects.create(pair=pair, model=version.model, wanted=wanted)


@pytest.mark.django_db
class TestPromptsImport:
    def test_reports_created_duplicate_and_rejected_lines(self) -> None:
        model = factories.RegisteredModelFactory.create()
        lines = [{"prompt": "One."}, {"prompt": "Two."}, {"prompt": "One."}, {"prompt": ""}, 7]

        report = actions.prompts_import(model=model, lines=enumerate(lines, 1))

        assert (report.created, report.duplicates) == (2, 1)
        assert [number for number, _ in report.rejected] == [4, 5]
        assert actions.prompts_import(model=model, lines=enumerate(lines[:2], 1)).duplicates == 2

    def test_decides_the_split_by_hash(self) -> None:
        model = factories.RegisteredModelFactory.create()

        actions.prompts_import(
            model=model, lines=((n, {"prompt": f"Say {n}."}) for n in range(200))
        )

        counts = queries.prompt_counts(model)
        assert counts["train"] + counts["holdout"] == 200
        assert 20 < counts["holdout"] < 60


@pytest.mark.django_db
class TestPairsTopUp:
    def test_asks_for_one_prompt_first_and_then_fills_the_queue(self) -> None:
        version = sampler(queue_target=10, eval_share=0)
        factories.PromptFactory.create_batch(8, model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=version.served_name)

        done = top_up(version, engine)

        assert queries.queue_length(version.model) >= 10
        assert done.pairs == Pair.objects.count() == QueueEntry.objects.count()
        assert all(asked.n == 4 for _, _, asked in engine.asked)
        assert Completion.objects.count() == 4 * len(engine.asked)

    def test_fills_the_queue_with_the_newest_versions_pairs_and_serves_them_first(self) -> None:
        version = sampler(queue_target=2, eval_share=0)
        waiting(version, 2)
        newer = factories.ModelVersionFactory.create(model=version.model, adapter=True)
        Alias.objects.filter(model=version.model, name=Alias.SAMPLER).update(version=newer)
        factories.PromptFactory.create_batch(2, model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=newer.served_name)

        assert top_up(newer, engine).pairs >= 2

        labeler = factories.MembershipFactory.create(model=version.model).user
        served = judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=NOW)
        assert served.pair.first.version == newer

    def test_sets_a_prompt_aside_that_the_engine_cannot_answer(self) -> None:
        version = sampler(queue_target=12, eval_share=0)
        factories.PromptFactory.create_batch(3, model=version.model, split=Split.TRAIN)
        long = factories.PromptFactory.create(
            model=version.model,
            split=Split.TRAIN,
            messages=[{"role": "user", "content": "x" * 9000}],
        )
        engine = FakeEngine(base=version.served_name)

        for _ in range(3):
            top_up(version, engine)

        assert queries.queue_length(version.model) >= 4
        long.refresh_from_db()
        assert "messages" in long.refusal
        assert long not in queries.prompts_to_sample(
            model=version.model, version=version, split=Split.TRAIN, limit=10
        )

    def test_blames_no_prompt_for_settings_that_the_engine_refuses(self) -> None:
        """More tokens than the engine has room for: every prompt is refused, and none is at fault."""
        version = sampler(queue_target=4, eval_share=0)
        prompt = factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=version.served_name)
        engine.enqueue(EngineRejected("max_tokens"), EngineRejected("max_tokens"))

        with pytest.raises(EngineRejected):
            top_up(version, engine)

        prompt.refresh_from_db()
        assert prompt.refusal == ""

    @pytest.mark.parametrize(("pairs", "asks"), [(10, False), (9, True)])
    def test_leaves_the_machine_to_a_round_while_enough_pairs_wait(
        self, pairs: int, asks: bool
    ) -> None:
        version = sampler(queue_target=20, eval_share=0)
        waiting(version, pairs)
        factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=version.served_name)

        with jobs.alone(jobs.TRAINER):
            top_up(version, engine)
        assert bool(engine.asked) is asks

        top_up(version, engine)
        assert engine.asked

    def test_asks_nothing_when_enough_pairs_wait(self) -> None:
        version = sampler(queue_target=2)
        waiting(version, 2)
        engine = FakeEngine(base=version.served_name)

        assert top_up(version, engine).pairs == 0
        assert engine.asked == []

    def test_keeps_the_ids_and_the_sampling_that_the_engine_was_asked_for(self) -> None:
        version = sampler(queue_target=1, temperature=0.7, max_tokens=64, eval_share=0)
        prompt = factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=version.served_name)

        top_up(version, engine)

        completion = Completion.objects.order_by("pk").first()
        assert completion is not None
        _, messages, sampling = engine.asked[0]
        assert [dict(message) for message in messages] == prompt.messages
        again = engine.sample(model=version.served_name, messages=messages, sampling=sampling)
        assert completion.prompt_ids == list(again.prompt_ids)
        assert completion.completion_ids == list(again.completions[0].token_ids)
        assert completion.text == again.completions[0].text
        assert completion.sampling == {
            "temperature": 0.7, "top_p": 0.95, "max_tokens": 64, "n": 4,
        }  # fmt: skip
        assert completion.seed == sampling.seed

    def test_counts_what_it_does_not_queue(self) -> None:
        version = sampler(queue_target=1, eval_share=0)
        factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=version.served_name)
        engine.enqueue(["", "I am SmolLM.", "Calm sea.", "calm sea."])

        done = top_up(version, engine)

        counts = {drop.reason: drop.count for drop in queries.drop_counts(version.model)}
        assert counts == dict(done.drops)
        assert {"empty": 1, "identity": 1, "near_identical": 1}.items() <= counts.items()
        assert Drop.objects.get(reason="empty").version == version

    def test_gives_up_for_now_when_the_model_only_writes_what_is_dropped(self) -> None:
        version = sampler(queue_target=5, eval_share=0)
        factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=version.served_name)
        engine.enqueue(*([["", "", "", ""]] * 100))

        assert top_up(version, engine).pairs == 0
        assert len(engine.asked) == actions.MOST_BATCHES

    def test_makes_eval_pairs_on_held_out_prompts_and_no_others(self) -> None:
        version = sampler(queue_target=60, eval_share=0.1)
        factories.PromptFactory.create_batch(20, model=version.model, split=Split.TRAIN)
        factories.PromptFactory.create_batch(5, model=version.model, split=Split.HOLDOUT)
        engine = FakeEngine(base=version.served_name)

        for _ in range(5):
            top_up(version, engine)

        evals = Pair.objects.filter(purpose="eval")
        assert 0.05 <= evals.count() / Pair.objects.count() <= 0.12
        assert set(evals.values_list("prompt__split", flat=True)) == {"holdout"}
        trains = Pair.objects.filter(purpose="train")
        assert set(trains.values_list("prompt__split", flat=True)) == {"train"}

    def test_keeps_what_was_stored_when_the_engine_fails_later(self) -> None:
        version = sampler(queue_target=30, eval_share=0)
        factories.PromptFactory.create_batch(20, model=version.model, split=Split.TRAIN)
        engine = FakeEngine(base=version.served_name)
        engine.enqueue(["One.", "Two two.", "Three three three.", "Four."], EngineFailed("Boom."))

        with pytest.raises(EngineFailed):
            top_up(version, engine)

        assert Pair.objects.count() >= 3

    def test_does_nothing_without_prompts(self) -> None:
        version = sampler()
        engine = FakeEngine(base=version.served_name)

        assert top_up(version, engine).pairs == 0


@pytest.mark.django_db
class TestPromptsToSample:
    def test_returns_the_least_answered_first(self) -> None:
        version = sampler()
        answered = factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        fresh = factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        Prompt.objects.filter(pk=answered.pk).update(asked_by=version.number, asked=1)

        found: list[Prompt] = queries.prompts_to_sample(
            model=version.model, version=version, split=Split.TRAIN, limit=1
        )

        assert found == [fresh]

    def test_returns_the_latest_import_before_older_ones(self) -> None:
        version = sampler()
        earlier, later = factories.PromptFactory.create_batch(
            2, model=version.model, split=Split.TRAIN
        )
        Prompt.objects.filter(pk=earlier.pk).update(place=F("place") - 60)

        found = queries.prompts_to_sample(
            model=version.model, version=version, split=Split.TRAIN, limit=2
        )

        assert found == [later, earlier]
