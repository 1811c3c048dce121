from __future__ import annotations

import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection, connections

from annotate import actions, queries
from annotate.models import (
    Assignment,
    Completion,
    Drop,
    Judgement,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    Split,
)
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import EngineFailed
from models_registry.models import ModelVersion
from tests import factories

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def sampler(**policy: object) -> ModelVersion:
    """Make a ready model with this policy; return its sampler, v0."""
    model = factories.RegisteredModelFactory.create()
    JudgingPolicy.objects.filter(model=model).update(**policy)
    return ModelVersion.objects.get(model=model)


def top_up(version: ModelVersion, engine: FakeEngine) -> actions.TopUp:
    return actions.pairs_top_up(model=version.model, engine=engine, chance=random.Random(1))


def waiting(version: ModelVersion, pairs: int) -> None:
    """Queue some pairs of one version."""
    for _ in range(pairs):
        pair = factories.PairFactory.create(prompt__model=version.model)
        QueueEntry.objects.create(pair=pair, model=version.model, wanted=1)


@pytest.mark.django_db
class TestPromptsImport:
    def test_reports_created_duplicate_and_rejected_lines(self) -> None:
        model = factories.RegisteredModelFactory.create()
        lines = [{"prompt": "One."}, {"prompt": "Two."}, {"prompt": "One."}, {"prompt": ""}, 7]

        report = actions.prompts_import(model=model, lines=lines)

        assert (report.created, report.duplicates) == (2, 1)
        assert [number for number, _ in report.rejected] == [4, 5]
        assert actions.prompts_import(model=model, lines=lines[:2]).duplicates == 2

    def test_decides_the_split_by_hash(self) -> None:
        model = factories.RegisteredModelFactory.create()

        actions.prompts_import(model=model, lines=[{"prompt": f"Say {n}."} for n in range(200)])

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
class TestPairAssign:
    def test_returns_the_lease_that_is_held(self) -> None:
        version = sampler()
        waiting(version, 2)
        labeler = factories.UserFactory.create()

        first = actions.pair_assign(model=version.model, labeler=labeler, now=NOW)
        again = actions.pair_assign(model=version.model, labeler=labeler, now=NOW)

        assert first == again
        assert queries.queue_length(version.model) == 1

    def test_refuses_when_nothing_waits(self) -> None:
        version = sampler()

        with pytest.raises(actions.QueueEmpty):
            actions.pair_assign(
                model=version.model, labeler=factories.UserFactory.create(), now=NOW
            )

    def test_gives_one_pair_to_one_person(self) -> None:
        version = sampler()
        waiting(version, 1)
        actions.pair_assign(model=version.model, labeler=factories.UserFactory.create(), now=NOW)

        with pytest.raises(actions.QueueEmpty):
            actions.pair_assign(
                model=version.model, labeler=factories.UserFactory.create(), now=NOW
            )

    def test_gives_an_expired_lease_to_the_next_person(self) -> None:
        version = sampler(lease_minutes=30)
        waiting(version, 1)
        gone, here = factories.UserFactory.create_batch(2)
        lost = actions.pair_assign(model=version.model, labeler=gone, now=NOW)

        found = actions.pair_assign(
            model=version.model, labeler=here, now=NOW + timedelta(minutes=31)
        )

        assert found.pair == lost.pair
        lost.refresh_from_db()
        assert lost.closed_at is not None

    def test_serves_the_highest_priority_first(self) -> None:
        version = sampler()
        waiting(version, 3)
        last = QueueEntry.objects.order_by("pair").last()
        assert last is not None
        QueueEntry.objects.filter(pk=last.pk).update(priority=5)

        assignment = actions.pair_assign(
            model=version.model, labeler=factories.UserFactory.create(), now=NOW
        )

        assert assignment.pair_id == last.pair_id

    def test_balances_the_sides_of_each_labeler(self) -> None:
        version = sampler()
        waiting(version, 60)
        labeler = factories.UserFactory.create()
        sides: Counter[bool] = Counter()

        for _ in range(60):
            assignment = actions.pair_assign(model=version.model, labeler=labeler, now=NOW)
            sides[assignment.first_is_left] += 1
            actions.judgement_record(assignment=assignment, verdict="tie", now=NOW)

        assert 18 <= sides[True] <= 42

    def test_never_shows_a_judged_pair_to_the_same_person_again(self) -> None:
        version = sampler(overlap=2)
        pair = factories.PairFactory.create(prompt__model=version.model)
        QueueEntry.objects.create(pair=pair, model=version.model, wanted=2)
        labeler = factories.UserFactory.create()
        assignment = actions.pair_assign(model=version.model, labeler=labeler, now=NOW)
        actions.judgement_record(assignment=assignment, verdict="left", now=NOW)

        with pytest.raises(actions.QueueEmpty):
            actions.pair_assign(model=version.model, labeler=labeler, now=NOW)


@pytest.mark.django_db
class TestJudgementRecord:
    @pytest.fixture
    def assignment(self) -> Assignment:
        version = sampler(lease_minutes=30)
        waiting(version, 1)
        return actions.pair_assign(
            model=version.model, labeler=factories.UserFactory.create(), now=NOW
        )

    @pytest.mark.parametrize("verdict", ["left_much", "left"])
    def test_stores_the_completion_that_was_on_the_left(
        self, assignment: Assignment, verdict: str
    ) -> None:
        judgement = actions.judgement_record(assignment=assignment, verdict=verdict, now=NOW)

        shown_left = assignment.pair.first if assignment.first_is_left else assignment.pair.second
        assert judgement.winner == shown_left

    def test_stores_the_completion_that_was_on_the_right(self, assignment: Assignment) -> None:
        judgement = actions.judgement_record(assignment=assignment, verdict="right", now=NOW)

        assert judgement.winner == assignment.right

    @pytest.mark.parametrize("verdict", ["tie", "both_bad", "cannot_judge"])
    def test_stores_no_winner_of_the_others(self, assignment: Assignment, verdict: str) -> None:
        assert (
            actions.judgement_record(assignment=assignment, verdict=verdict, now=NOW).winner is None
        )

    def test_closes_the_lease_and_takes_the_pair_off_the_queue(
        self, assignment: Assignment
    ) -> None:
        actions.judgement_record(assignment=assignment, verdict="left", now=NOW)

        assignment.refresh_from_db()
        assert assignment.closed_at == NOW
        assert not QueueEntry.objects.exists()

    def test_returns_the_first_judgement_when_repeated(self, assignment: Assignment) -> None:
        first = actions.judgement_record(assignment=assignment, verdict="left", now=NOW)
        again = actions.judgement_record(assignment=assignment, verdict="right", now=NOW)

        assert first == again
        assert Judgement.objects.count() == 1

    def test_accepts_a_late_one_on_top_of_the_overlap(self, assignment: Assignment) -> None:
        late = NOW + timedelta(minutes=31)
        model = assignment.pair.prompt.model
        other = actions.pair_assign(model=model, labeler=factories.UserFactory.create(), now=late)
        actions.judgement_record(assignment=other, verdict="left", now=late)

        judgement = actions.judgement_record(assignment=assignment, verdict="right", now=late)

        assert judgement.is_late
        assert Judgement.objects.count() == 2

    def test_refuses_an_unknown_verdict(self, assignment: Assignment) -> None:
        with pytest.raises(actions.VerdictUnknown):
            actions.judgement_record(assignment=assignment, verdict="best", now=NOW)

        assert not Judgement.objects.exists()

    def test_asks_for_more_pairs(self, assignment: Assignment) -> None:
        actions.judgement_record(assignment=assignment, verdict="left", now=NOW)

        with connection.cursor() as cursor:
            cursor.execute("SELECT task_name FROM procrastinate_jobs WHERE status = 'todo'")
            assert cursor.fetchall() == [("annotate.tasks.pairs_top_up",)]

    def test_cannot_be_rewritten(self, assignment: Assignment) -> None:
        judgement = actions.judgement_record(assignment=assignment, verdict="left", now=NOW)

        with pytest.raises(DatabaseError, match="append-only"):
            Judgement.objects.filter(pk=judgement.pk).update(verdict="right")


def in_parallel(count: int, work: object) -> list[object]:
    """Call work(index) in threads of their own, each with its own connection."""
    results: list[object] = [None] * count
    gate = threading.Barrier(count)

    def body(index: int) -> None:
        gate.wait()
        try:
            results[index] = work(index)  # type: ignore[operator]
        except actions.QueueEmpty as empty:
            results[index] = empty
        finally:
            connections.close_all()

    threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
class TestInParallel:
    def test_eight_labelers_never_get_the_same_pair(self) -> None:
        version = sampler()
        waiting(version, 20)
        labelers = factories.UserFactory.create_batch(8)

        def pull(index: int) -> int:
            taken = 0
            try:
                while True:
                    assignment = actions.pair_assign(
                        model=version.model, labeler=labelers[index], now=NOW
                    )
                    actions.judgement_record(assignment=assignment, verdict="tie", now=NOW)
                    taken += 1
            except actions.QueueEmpty:
                return taken

        taken = in_parallel(8, pull)

        assert sum(count for count in taken if isinstance(count, int)) == 20
        assert (
            Assignment.objects.values("pair").distinct().count() == Assignment.objects.count() == 20
        )

    def test_fifty_posts_of_one_judgement_make_one_row(self) -> None:
        version = sampler()
        waiting(version, 1)
        assignment = actions.pair_assign(
            model=version.model, labeler=factories.UserFactory.create(), now=NOW
        )

        results = in_parallel(
            50,
            lambda _: actions.judgement_record(assignment=assignment, verdict="left", now=NOW).pk,
        )

        assert len(set(results)) == 1
        assert Judgement.objects.count() == 1

    def test_one_labeler_in_two_tabs_holds_one_lease(self) -> None:
        version = sampler()
        waiting(version, 8)
        labeler = factories.UserFactory.create()

        results = in_parallel(
            8, lambda _: actions.pair_assign(model=version.model, labeler=labeler, now=NOW).uuid
        )

        assert len(set(results)) == 1


@pytest.mark.django_db
class TestPromptsToSample:
    def test_returns_the_least_answered_first(self) -> None:
        version = sampler()
        answered = factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        fresh = factories.PromptFactory.create(model=version.model, split=Split.TRAIN)
        factories.CompletionFactory.create(prompt=answered, version=version)

        found: list[Prompt] = queries.prompts_to_sample(
            model=version.model, version=version, split=Split.TRAIN, limit=1
        )

        assert found == [fresh]
