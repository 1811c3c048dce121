from __future__ import annotations

import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, connections
from django.db.models import F

from annotate import actions, queries, triples
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


def queue(*, pairs: int, labelers: int = 1, overlap: int = 1) -> tuple[ModelVersion, list[User]]:
    """Queue pairs of a model whose leases last half an hour; return its version and some labelers."""
    version = sampler(overlap=overlap, lease_minutes=30)
    waiting(version, pairs, wanted=overlap)
    return version, factories.UserFactory.create_batch(labelers)


def assign(version: ModelVersion, labeler: User, now: datetime = NOW) -> Assignment:
    return actions.pair_assign(model=version.model, labeler=labeler, now=now)


def record(assignment: Assignment, verdict: str, now: datetime = NOW) -> tuple[Judgement, bool]:
    return actions.judgement_record(assignment=assignment, verdict=verdict, now=now)


def books_balance(version: ModelVersion) -> bool:
    """Whether the queue counts every open lease, and wants what the overlap still lacks."""
    overlap = version.model.judging_policy.overlap
    entries = {entry.pair_id: entry for entry in QueueEntry.objects.all()}
    for pair in Pair.objects.filter(prompt__model=version.model):
        counted = pair.assignments.filter(is_on_top=False)
        leased = counted.filter(closed_at=None).count()
        judged = queries.judgements_standing().filter(assignment__in=counted).count()
        entry = entries.get(pair.pk)
        if (leased, overlap - judged) != ((entry.leased, entry.wanted) if entry else (0, 0)):
            return False
    return True


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
        served = actions.pair_assign(model=version.model, labeler=labeler, now=NOW)
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

    def test_counts_a_lease_once_that_its_labeler_comes_back_to(self) -> None:
        version, (labeler,) = queue(pairs=1, overlap=2)
        expired = assign(version, labeler)

        again = assign(version, labeler, now=NOW + timedelta(minutes=31))

        assert again == expired
        assert list(QueueEntry.objects.values_list("wanted", "leased")) == [(2, 1)]

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
        judgement, _ = actions.judgement_record(assignment=assignment, verdict=verdict, now=NOW)

        shown_left = assignment.pair.first if assignment.first_is_left else assignment.pair.second
        assert judgement.winner == shown_left

    def test_stores_the_completion_that_was_on_the_right(self, assignment: Assignment) -> None:
        judgement, _ = actions.judgement_record(assignment=assignment, verdict="right", now=NOW)

        assert judgement.winner == assignment.right

    @pytest.mark.parametrize("verdict", ["tie", "both_bad", "cannot_judge"])
    def test_stores_no_winner_of_the_others(self, assignment: Assignment, verdict: str) -> None:
        judgement, _ = actions.judgement_record(assignment=assignment, verdict=verdict, now=NOW)

        assert judgement.winner is None

    def test_closes_the_lease_and_takes_the_pair_off_the_queue(
        self, assignment: Assignment
    ) -> None:
        actions.judgement_record(assignment=assignment, verdict="left", now=NOW)

        assignment.refresh_from_db()
        assert assignment.closed_at == NOW
        assert not QueueEntry.objects.exists()

    def test_returns_the_first_judgement_when_repeated(self, assignment: Assignment) -> None:
        first, is_new = actions.judgement_record(assignment=assignment, verdict="left", now=NOW)
        again, is_new_again = actions.judgement_record(
            assignment=assignment, verdict="right", now=NOW
        )

        assert first == again
        assert (is_new, is_new_again) == (True, False)
        assert Judgement.objects.count() == 1

    def test_accepts_a_late_one_on_top_of_the_overlap(self, assignment: Assignment) -> None:
        late = NOW + timedelta(minutes=31)
        model = assignment.pair.prompt.model
        other = actions.pair_assign(model=model, labeler=factories.UserFactory.create(), now=late)
        actions.judgement_record(assignment=other, verdict="left", now=late)

        judgement, _ = actions.judgement_record(assignment=assignment, verdict="right", now=late)

        assert judgement.is_late
        assert Judgement.objects.count() == 2

    def test_refuses_an_unknown_verdict(self, assignment: Assignment) -> None:
        with pytest.raises(actions.VerdictUnknown):
            actions.judgement_record(assignment=assignment, verdict="best", now=NOW)

        assert not Judgement.objects.exists()

    def test_asks_for_more_pairs(self, no_jobs: None, assignment: Assignment) -> None:
        actions.judgement_record(assignment=assignment, verdict="left", now=NOW)

        with connection.cursor() as cursor:
            cursor.execute("SELECT task_name FROM procrastinate_jobs WHERE status = 'todo'")
            assert cursor.fetchall() == [("annotate.tasks.pairs_top_up",)]

    def test_cannot_be_rewritten(self, assignment: Assignment) -> None:
        judgement, _ = actions.judgement_record(assignment=assignment, verdict="left", now=NOW)

        with pytest.raises(DatabaseError, match="append-only"):
            Judgement.objects.filter(pk=judgement.pk).update(verdict="right")


@pytest.mark.django_db
class TestJudgementUndo:
    LATER = NOW + timedelta(minutes=1)

    def test_shows_the_same_pair_again_with_the_same_sides(self) -> None:
        version, (labeler,) = queue(pairs=3)
        judged = assign(version, labeler)
        record(judged, "left")
        assign(version, labeler)

        actions.judgement_undo(assignment=judged, now=self.LATER)

        back = assign(version, labeler, now=self.LATER)
        assert back == judged
        assert back.first_is_left == judged.first_is_left
        assert queries.verdict_taken_back(back) == "left"
        assert books_balance(version)

    def test_appends_a_revision(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left_much")

        actions.judgement_undo(assignment=judged, now=self.LATER)

        rows = Judgement.objects.order_by("revision")
        assert list(rows.values_list("revision", "verdict", "winner")) == [
            (1, "left_much", judged.left.pk),
            (2, "", None),
        ]
        assert not queries.judgements_standing().exists()

    def test_takes_another_verdict_afterwards(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")
        actions.judgement_undo(assignment=judged, now=self.LATER)

        judgement, is_new = record(judged, "right_much", now=self.LATER)

        assert (is_new, judgement.revision, judgement.winner) == (True, 3, judged.right)
        assert list(queries.judgements_standing()) == [judgement]
        assert not QueueEntry.objects.exists()
        assert queries.verdict_taken_back(judged) is None

    def test_twice_is_once(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")

        for _ in range(2):
            actions.judgement_undo(assignment=judged, now=self.LATER)

        assert Judgement.objects.count() == 2
        assert books_balance(version)

    def test_changes_nothing_when_nothing_was_said(self) -> None:
        version, (labeler,) = queue(pairs=1)
        held = assign(version, labeler)

        actions.judgement_undo(assignment=held, now=self.LATER)

        assert not Judgement.objects.exists()
        assert books_balance(version)

    def test_goes_back_one_by_one(self) -> None:
        version, (labeler,) = queue(pairs=3)
        done = []
        for _ in range(3):
            done.append(assign(version, labeler))
            record(done[-1], "tie", now=NOW + timedelta(seconds=len(done)))

        for step, expected in enumerate(reversed(done)):
            last = queries.assignment_judged_last(model=version.model, labeler=labeler)
            assert last == expected
            actions.judgement_undo(assignment=last, now=self.LATER + timedelta(seconds=step))
        again = []
        for _ in done:
            again.append(assign(version, labeler, now=self.LATER + timedelta(seconds=9)))
            record(again[-1], "left", now=self.LATER + timedelta(seconds=9))

        # What was taken back last comes first.
        assert again == done

    def test_gives_nobody_else_the_pair(self) -> None:
        version, (mine, other) = queue(pairs=1, labelers=2)
        judged = assign(version, mine)
        record(judged, "left")

        actions.judgement_undo(assignment=judged, now=self.LATER)

        # It had all its judgements, so the queue had forgotten it.
        assert list(QueueEntry.objects.values_list("wanted", "leased")) == [(1, 1)]
        with pytest.raises(actions.QueueEmpty):
            assign(version, other, now=self.LATER)

    def test_leaves_the_other_labelers_lease_alone(self) -> None:
        version, (mine, other, third) = queue(pairs=1, labelers=3, overlap=2)
        judged = assign(version, mine)
        record(judged, "left")
        theirs = assign(version, other)

        actions.judgement_undo(assignment=judged, now=self.LATER)

        assert list(QueueEntry.objects.values_list("wanted", "leased")) == [(2, 2)]
        with pytest.raises(actions.QueueEmpty):
            assign(version, third, now=self.LATER)
        record(theirs, "right", now=self.LATER)
        record(judged, "right", now=self.LATER)
        assert not QueueEntry.objects.exists()

    def test_is_forgotten_when_the_lease_ends_again(self) -> None:
        version, (mine, other) = queue(pairs=1, labelers=2)
        judged = assign(version, mine)
        record(judged, "left")
        actions.judgement_undo(assignment=judged, now=self.LATER)

        much_later = self.LATER + timedelta(minutes=31)
        theirs = assign(version, other, now=much_later)

        assert theirs.pair == judged.pair
        assert books_balance(version)
        # Whoever took it back may still judge it, on top.
        record(judged, "right", now=much_later)
        record(theirs, "left", now=much_later)
        assert queries.judgements_standing().count() == 2
        assert not QueueEntry.objects.exists()

    def test_offers_the_pair_to_the_same_labeler_again_after_the_lease(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")
        actions.judgement_undo(assignment=judged, now=self.LATER)

        again = assign(version, labeler, now=self.LATER + timedelta(minutes=31))

        assert again == judged
        assert books_balance(version)

    def test_of_a_late_judgement_takes_the_pair_from_nobody(self) -> None:
        version, (mine, other, third) = queue(pairs=1, labelers=3)
        slow = assign(version, mine)
        late = NOW + timedelta(minutes=31)
        theirs = assign(version, other, now=late)
        record(slow, "left", now=late)

        actions.judgement_undo(assignment=slow, now=late)

        assert assign(version, mine, now=late) == slow
        assert assign(version, other, now=late) == theirs
        assert list(QueueEntry.objects.values_list("wanted", "leased")) == [(1, 1)]
        with pytest.raises(actions.QueueEmpty):
            assign(version, third, now=late)
        record(theirs, "right", now=late)
        record(slow, "right_much", now=late)
        assert queries.judgements_standing().count() == 2
        assert not QueueEntry.objects.exists()

    def test_of_a_late_judgement_leaves_no_trace_in_the_queue_when_abandoned(self) -> None:
        version, (mine, other) = queue(pairs=1, labelers=2)
        slow = assign(version, mine)
        late = NOW + timedelta(minutes=31)
        record(assign(version, other, now=late), "tie", now=late)
        record(slow, "left", now=late)
        actions.judgement_undo(assignment=slow, now=late)

        actions.leases_release(model=version.model, now=late + timedelta(minutes=31))

        assert not QueueEntry.objects.exists()
        slow.refresh_from_db()
        assert slow.closed_at is not None

    def test_may_be_of_what_a_snapshot_holds(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        judgement, _ = record(judged, "left")
        item = factories.SnapshotItemFactory.create(pair=judged.pair, judgement_ids=[judgement.pk])

        actions.judgement_undo(assignment=judged, now=self.LATER)

        item.refresh_from_db()
        assert item.judgement_ids == [judgement.pk]
        assert not triples.triple_pairs(model=version.model).exists()


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
    @pytest.mark.parametrize("overlap", [1, 2])
    def test_labelers_never_get_a_pair_beyond_its_overlap(self, overlap: int) -> None:
        version, labelers = queue(pairs=60, labelers=8, overlap=overlap)

        def pull(index: int) -> int:
            for turn in range(30):
                try:
                    assignment = assign(version, labelers[index])
                except actions.QueueEmpty:
                    return turn
                record(assignment, "tie")
                # Each takes back some; they come again at once.
                if turn % 7 == index % 7:
                    actions.judgement_undo(assignment=assignment, now=NOW)
            return 30

        in_parallel(8, pull)

        held = Counter(Assignment.objects.values_list("pair", flat=True))
        assert sum(held.values()) >= 60
        assert max(held.values()) <= overlap
        assert books_balance(version)

    def test_fifty_undos_are_one(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")

        in_parallel(50, lambda _: actions.judgement_undo(assignment=judged, now=NOW))

        assert list(Judgement.objects.order_by("pk").values_list("verdict", flat=True)) == [
            "left",
            "",
        ]
        assert books_balance(version)

    def test_two_labelers_undo_what_completed_a_pair(self) -> None:
        version, labelers = queue(pairs=1, labelers=2, overlap=2)
        both = [assign(version, labeler) for labeler in labelers]

        for _ in range(10):
            in_parallel(2, lambda index: record(both[index], "left"))
            assert not QueueEntry.objects.exists()
            in_parallel(2, lambda index: actions.judgement_undo(assignment=both[index], now=NOW))
            assert books_balance(version)

    def test_verdicts_and_undos_of_one_labeler_leave_the_books_balanced(self) -> None:
        version, (labeler,) = queue(pairs=2)
        judged = assign(version, labeler)

        def fumble(index: int) -> None:
            if index % 3 == 0:
                record(judged, "left")
            elif index % 3 == 1:
                actions.judgement_undo(assignment=judged, now=NOW)
            else:
                assign(version, labeler)

        in_parallel(24, fumble)

        assert books_balance(version)
        revisions = list(Judgement.objects.order_by("revision").values_list("verdict", flat=True))
        assert revisions == ["left", ""] * (len(revisions) // 2) + ["left"] * (len(revisions) % 2)

    def test_fifty_posts_of_one_judgement_make_one_row(self) -> None:
        version = sampler()
        waiting(version, 1)
        assignment = actions.pair_assign(
            model=version.model, labeler=factories.UserFactory.create(), now=NOW
        )

        results = in_parallel(
            50,
            lambda _: (
                actions.judgement_record(assignment=assignment, verdict="left", now=NOW)[0].pk
            ),
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
