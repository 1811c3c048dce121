from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, connections

from annotate import judging, queries, triples
from annotate.models import (
    Assignment,
    Judgement,
    JudgingPolicy,
    Pair,
    QueueEntry,
)
from models_registry.models import ModelVersion
from tests import factories

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def sampler(**policy: object) -> ModelVersion:
    """Make a ready model with this policy; return its sampler, v0."""
    model = factories.RegisteredModelFactory.create()
    JudgingPolicy.objects.filter(model=model).update(**policy)
    return ModelVersion.objects.get(model=model)


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
    return judging.pair_assign(model=version.model, labeler=labeler, now=now)


def record(assignment: Assignment, verdict: str, now: datetime = NOW) -> judging.Recorded:
    return judging.judgement_record(assignment=assignment, verdict=verdict, now=now)


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
class TestPairAssign:
    def test_returns_the_lease_that_is_held(self) -> None:
        version = sampler()
        waiting(version, 2)
        labeler = factories.UserFactory.create()

        first = judging.pair_assign(model=version.model, labeler=labeler, now=NOW)
        again = judging.pair_assign(model=version.model, labeler=labeler, now=NOW)

        assert first == again
        assert queries.queue_length(version.model) == 1

    def test_refuses_when_nothing_waits(self) -> None:
        version = sampler()

        with pytest.raises(judging.QueueEmpty):
            judging.pair_assign(
                model=version.model, labeler=factories.UserFactory.create(), now=NOW
            )

    def test_asks_for_more_pairs_when_nothing_waits(self, no_jobs: None) -> None:
        version, (labeler,) = queue(pairs=1)
        record(assign(version, labeler), "left")

        for _ in range(2):
            with pytest.raises(judging.QueueEmpty):
                assign(version, labeler)

        with connection.cursor() as cursor:
            cursor.execute("SELECT task_name FROM procrastinate_jobs WHERE status = 'todo'")
            assert cursor.fetchall() == [("annotate.tasks.pairs_top_up",)]

    def test_gives_one_pair_to_one_person(self) -> None:
        version = sampler()
        waiting(version, 1)
        judging.pair_assign(model=version.model, labeler=factories.UserFactory.create(), now=NOW)

        with pytest.raises(judging.QueueEmpty):
            judging.pair_assign(
                model=version.model, labeler=factories.UserFactory.create(), now=NOW
            )

    def test_gives_an_expired_lease_to_the_next_person(self) -> None:
        version = sampler(lease_minutes=30)
        waiting(version, 1)
        gone, here = factories.UserFactory.create_batch(2)
        lost = judging.pair_assign(model=version.model, labeler=gone, now=NOW)

        found = judging.pair_assign(
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

        assignment = judging.pair_assign(
            model=version.model, labeler=factories.UserFactory.create(), now=NOW
        )

        assert assignment.pair_id == last.pair_id

    def test_balances_the_sides_of_each_labeler(self) -> None:
        version = sampler()
        waiting(version, 60)
        labeler = factories.UserFactory.create()
        sides: Counter[bool] = Counter()

        for _ in range(60):
            assignment = judging.pair_assign(model=version.model, labeler=labeler, now=NOW)
            sides[assignment.first_is_left] += 1
            judging.judgement_record(assignment=assignment, verdict="tie", now=NOW)

        assert 18 <= sides[True] <= 42

    def test_never_shows_a_judged_pair_to_the_same_person_again(self) -> None:
        version = sampler(overlap=2)
        pair = factories.PairFactory.create(prompt__model=version.model)
        QueueEntry.objects.create(pair=pair, model=version.model, wanted=2)
        labeler = factories.UserFactory.create()
        assignment = judging.pair_assign(model=version.model, labeler=labeler, now=NOW)
        judging.judgement_record(assignment=assignment, verdict="left", now=NOW)

        with pytest.raises(judging.QueueEmpty):
            judging.pair_assign(model=version.model, labeler=labeler, now=NOW)


@pytest.mark.django_db
class TestJudgementRecord:
    @pytest.fixture
    def assignment(self) -> Assignment:
        version = sampler(lease_minutes=30)
        waiting(version, 1)
        return judging.pair_assign(
            model=version.model, labeler=factories.UserFactory.create(), now=NOW
        )

    @pytest.mark.parametrize("verdict", ["left_much", "left"])
    def test_stores_the_completion_that_was_on_the_left(
        self, assignment: Assignment, verdict: str
    ) -> None:
        judgement = judging.judgement_record(
            assignment=assignment, verdict=verdict, now=NOW
        ).judgement

        shown_left = assignment.pair.first if assignment.first_is_left else assignment.pair.second
        assert judgement.winner == shown_left

    def test_stores_the_completion_that_was_on_the_right(self, assignment: Assignment) -> None:
        judgement = judging.judgement_record(
            assignment=assignment, verdict="right", now=NOW
        ).judgement

        assert judgement.winner == assignment.right

    @pytest.mark.parametrize("verdict", ["tie", "both_bad", "cannot_judge"])
    def test_stores_no_winner_of_the_others(self, assignment: Assignment, verdict: str) -> None:
        judgement = judging.judgement_record(
            assignment=assignment, verdict=verdict, now=NOW
        ).judgement

        assert judgement.winner is None

    def test_closes_the_lease_and_takes_the_pair_off_the_queue(
        self, assignment: Assignment
    ) -> None:
        judging.judgement_record(assignment=assignment, verdict="left", now=NOW)

        assignment.refresh_from_db()
        assert assignment.closed_at == NOW
        assert not QueueEntry.objects.exists()

    def test_returns_the_first_judgement_when_repeated(self, assignment: Assignment) -> None:
        first = judging.judgement_record(assignment=assignment, verdict="left", now=NOW)
        again = judging.judgement_record(assignment=assignment, verdict="right", now=NOW)

        assert first.judgement == again.judgement
        assert (first.is_new, again.is_new) == (True, False)
        assert (again.today, again.in_all) == (1, 1)
        assert Judgement.objects.count() == 1

    def test_accepts_a_late_one_on_top_of_the_overlap(self, assignment: Assignment) -> None:
        late = NOW + timedelta(minutes=31)
        model = assignment.pair.prompt.model
        other = judging.pair_assign(model=model, labeler=factories.UserFactory.create(), now=late)
        judging.judgement_record(assignment=other, verdict="left", now=late)

        judgement = judging.judgement_record(
            assignment=assignment, verdict="right", now=late
        ).judgement

        assert judgement.is_late
        assert Judgement.objects.count() == 2

    def test_refuses_an_unknown_verdict(self, assignment: Assignment) -> None:
        with pytest.raises(judging.VerdictUnknown):
            judging.judgement_record(assignment=assignment, verdict="best", now=NOW)

        assert not Judgement.objects.exists()

    def test_cannot_be_rewritten(self, assignment: Assignment) -> None:
        judgement = judging.judgement_record(
            assignment=assignment, verdict="left", now=NOW
        ).judgement

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

        judging.judgement_undo(assignment=judged, now=self.LATER)

        back = assign(version, labeler, now=self.LATER)
        assert back == judged
        assert back.first_is_left == judged.first_is_left
        assert queries.verdict_taken_back(back) == "left"
        assert books_balance(version)

    def test_appends_a_revision(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left_much")

        judging.judgement_undo(assignment=judged, now=self.LATER)

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
        judging.judgement_undo(assignment=judged, now=self.LATER)

        said = record(judged, "right_much", now=self.LATER)

        judgement = said.judgement
        assert (said.is_new, judgement.revision, judgement.winner) == (True, 3, judged.right)
        assert list(queries.judgements_standing()) == [judgement]
        assert not QueueEntry.objects.exists()
        assert queries.verdict_taken_back(judged) is None

    def test_twice_is_once(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")

        for _ in range(2):
            judging.judgement_undo(assignment=judged, now=self.LATER)

        assert Judgement.objects.count() == 2
        assert books_balance(version)

    def test_changes_nothing_when_nothing_was_said(self) -> None:
        version, (labeler,) = queue(pairs=1)
        held = assign(version, labeler)

        judging.judgement_undo(assignment=held, now=self.LATER)

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
            judging.judgement_undo(assignment=last, now=self.LATER + timedelta(seconds=step))
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

        judging.judgement_undo(assignment=judged, now=self.LATER)

        # It had all its judgements, so the queue had forgotten it.
        assert list(QueueEntry.objects.values_list("wanted", "leased")) == [(1, 1)]
        with pytest.raises(judging.QueueEmpty):
            assign(version, other, now=self.LATER)

    def test_leaves_the_other_labelers_lease_alone(self) -> None:
        version, (mine, other, third) = queue(pairs=1, labelers=3, overlap=2)
        judged = assign(version, mine)
        record(judged, "left")
        theirs = assign(version, other)

        judging.judgement_undo(assignment=judged, now=self.LATER)

        assert list(QueueEntry.objects.values_list("wanted", "leased")) == [(2, 2)]
        with pytest.raises(judging.QueueEmpty):
            assign(version, third, now=self.LATER)
        record(theirs, "tie", now=self.LATER)
        record(judged, "right", now=self.LATER)
        assert not QueueEntry.objects.exists()

    def test_is_forgotten_when_the_lease_ends_again(self) -> None:
        version, (mine, other) = queue(pairs=1, labelers=2)
        judged = assign(version, mine)
        record(judged, "left")
        judging.judgement_undo(assignment=judged, now=self.LATER)

        much_later = self.LATER + timedelta(minutes=31)
        theirs = assign(version, other, now=much_later)

        assert theirs.pair == judged.pair
        assert books_balance(version)
        # Whoever took it back may still judge it, on top.
        record(judged, "right", now=much_later)
        record(theirs, "tie", now=much_later)
        assert queries.judgements_standing().count() == 2
        assert not QueueEntry.objects.exists()

    def test_offers_the_pair_to_the_same_labeler_again_after_the_lease(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")
        judging.judgement_undo(assignment=judged, now=self.LATER)

        again = assign(version, labeler, now=self.LATER + timedelta(minutes=31))

        assert again == judged
        assert books_balance(version)

    def test_of_a_late_judgement_takes_the_pair_from_nobody(self) -> None:
        version, (mine, other, third) = queue(pairs=1, labelers=3)
        slow = assign(version, mine)
        late = NOW + timedelta(minutes=31)
        theirs = assign(version, other, now=late)
        record(slow, "left", now=late)

        judging.judgement_undo(assignment=slow, now=late)

        assert assign(version, mine, now=late) == slow
        assert assign(version, other, now=late) == theirs
        assert list(QueueEntry.objects.values_list("wanted", "leased")) == [(1, 1)]
        with pytest.raises(judging.QueueEmpty):
            assign(version, third, now=late)
        record(theirs, "tie", now=late)
        record(slow, "right_much", now=late)
        assert queries.judgements_standing().count() == 2
        assert not QueueEntry.objects.exists()

    def test_of_a_late_judgement_leaves_no_trace_in_the_queue_when_abandoned(self) -> None:
        version, (mine, other) = queue(pairs=1, labelers=2)
        slow = assign(version, mine)
        late = NOW + timedelta(minutes=31)
        record(assign(version, other, now=late), "tie", now=late)
        record(slow, "left", now=late)
        judging.judgement_undo(assignment=slow, now=late)

        judging.leases_release(model=version.model, now=late + timedelta(minutes=31))

        assert not QueueEntry.objects.exists()
        slow.refresh_from_db()
        assert slow.closed_at is not None

    def test_may_be_of_what_a_snapshot_holds(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        judgement = record(judged, "left").judgement
        item = factories.SnapshotItemFactory.create(pair=judged.pair, judgement_ids=[judgement.pk])

        judging.judgement_undo(assignment=judged, now=self.LATER)

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
        except judging.QueueEmpty as empty:
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
                except judging.QueueEmpty:
                    return turn
                record(assignment, "tie")
                # Each takes back some; they come again at once.
                if turn % 7 == index % 7:
                    judging.judgement_undo(assignment=assignment, now=NOW)
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

        in_parallel(50, lambda _: judging.judgement_undo(assignment=judged, now=NOW))

        assert list(Judgement.objects.order_by("pk").values_list("verdict", flat=True)) == [
            "left",
            "",
        ]
        assert books_balance(version)

    def test_two_labelers_undo_what_completed_a_pair(self) -> None:
        version, labelers = queue(pairs=1, labelers=2, overlap=2)
        both = [assign(version, labeler) for labeler in labelers]

        for _ in range(10):
            in_parallel(2, lambda index: record(both[index], "tie"))
            assert not QueueEntry.objects.exists()
            in_parallel(2, lambda index: judging.judgement_undo(assignment=both[index], now=NOW))
            assert books_balance(version)

    def test_verdicts_and_undos_of_one_labeler_leave_the_books_balanced(self) -> None:
        version, (labeler,) = queue(pairs=2)
        judged = assign(version, labeler)

        def fumble(index: int) -> None:
            if index % 3 == 0:
                record(judged, "left")
            elif index % 3 == 1:
                judging.judgement_undo(assignment=judged, now=NOW)
            else:
                assign(version, labeler)

        in_parallel(24, fumble)

        assert books_balance(version)
        revisions = list(Judgement.objects.order_by("revision").values_list("verdict", flat=True))
        assert revisions == ["left", ""] * (len(revisions) // 2) + ["left"] * (len(revisions) % 2)

    def test_fifty_posts_of_one_judgement_make_one_row(self) -> None:
        version = sampler()
        waiting(version, 1)
        assignment = judging.pair_assign(
            model=version.model, labeler=factories.UserFactory.create(), now=NOW
        )

        results = in_parallel(
            50,
            lambda _: (
                judging.judgement_record(
                    assignment=assignment, verdict="left", now=NOW
                ).judgement.pk
            ),
        )

        assert len(set(results)) == 1
        assert Judgement.objects.count() == 1

    def test_one_labeler_in_two_tabs_holds_one_lease(self) -> None:
        version = sampler()
        waiting(version, 8)
        labeler = factories.UserFactory.create()

        results = in_parallel(
            8, lambda _: judging.pair_assign(model=version.model, labeler=labeler, now=NOW).uuid
        )

        assert len(set(results)) == 1
