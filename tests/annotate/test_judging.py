from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, connections
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from annotate import actions, judging, queries, triples
from annotate.models import (
    Assignment,
    Judgement,
    JudgingPolicy,
    Pair,
    QueueEntry,
    Split,
    Tally,
)
from models_registry.models import ModelVersion
from pairloop.lib import edits
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
    return judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=now)


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

        first = judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=NOW)
        again = judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=NOW)

        assert first == again
        assert queries.queue_length(version.model) == 1

    def test_refuses_when_nothing_waits(self) -> None:
        version = sampler()

        with pytest.raises(judging.QueueEmpty):
            judging.pair_assign(
                model_id=version.model.pk, labeler=factories.UserFactory.create(), now=NOW
            )

    def test_gives_a_reserved_pair_to_its_labeler_once(self) -> None:
        version, (mine, other) = queue(pairs=1, labelers=2, overlap=2)
        QueueEntry.objects.update(reserved_for=mine)

        record(assign(version, mine), "left")

        with pytest.raises(judging.QueueEmpty):
            assign(version, mine)
        assert assign(version, other).labeler == other
        assert books_balance(version)

    def test_takes_back_on_the_day_it_was_judged(self) -> None:
        version, (mine,) = queue(pairs=2)
        lease = assign(version, mine)
        record(lease, "left")
        tomorrow = NOW + timedelta(days=1)
        judging.judgement_record(assignment=lease, verdict="tie", now=tomorrow, revise=True)
        record(assign(version, mine, tomorrow), "left", tomorrow)

        judging.judgement_undo(assignment=lease, now=tomorrow)

        tally = Tally.objects.get(labeler=mine)
        assert (tally.today, tally.judged) == (1, 1)

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
        judging.pair_assign(
            model_id=version.model.pk, labeler=factories.UserFactory.create(), now=NOW
        )

        with pytest.raises(judging.QueueEmpty):
            judging.pair_assign(
                model_id=version.model.pk, labeler=factories.UserFactory.create(), now=NOW
            )

    def test_gives_an_expired_lease_to_the_next_person(self) -> None:
        version = sampler(lease_minutes=30)
        waiting(version, 1)
        gone, here = factories.UserFactory.create_batch(2)
        lost = judging.pair_assign(model_id=version.model.pk, labeler=gone, now=NOW)

        found = judging.pair_assign(
            model_id=version.model.pk, labeler=here, now=NOW + timedelta(minutes=31)
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
            model_id=version.model.pk, labeler=factories.UserFactory.create(), now=NOW
        )

        assert assignment.pair_id == last.pair_id

    def test_balances_the_sides_of_each_labeler(self) -> None:
        version = sampler()
        waiting(version, 60)
        labeler = factories.UserFactory.create()
        sides: Counter[bool] = Counter()

        for _ in range(60):
            assignment = judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=NOW)
            sides[assignment.first_is_left] += 1
            judging.judgement_record(assignment=assignment, verdict="tie", now=NOW)

        assert 18 <= sides[True] <= 42

    def test_never_shows_a_judged_pair_to_the_same_person_again(self) -> None:
        version = sampler(overlap=2)
        pair = factories.PairFactory.create(prompt__model=version.model)
        QueueEntry.objects.create(pair=pair, model=version.model, wanted=2)
        labeler = factories.UserFactory.create()
        assignment = judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=NOW)
        judging.judgement_record(assignment=assignment, verdict="left", now=NOW)

        with pytest.raises(judging.QueueEmpty):
            judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=NOW)


@pytest.mark.django_db
class TestJudgementRecord:
    @pytest.fixture
    def assignment(self) -> Assignment:
        version = sampler(lease_minutes=30)
        waiting(version, 1)
        return judging.pair_assign(
            model_id=version.model.pk, labeler=factories.UserFactory.create(), now=NOW
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
        other = judging.pair_assign(
            model_id=model.pk, labeler=factories.UserFactory.create(), now=late
        )
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

    def test_that_hung_and_was_repeated_takes_nothing_newer_back(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")
        judging.judgement_undo(assignment=judged, now=self.LATER, of=1)
        judging.judgement_record(assignment=judged, verdict="tie", now=self.LATER, of=2)

        assert judging.judgement_undo(assignment=judged, now=self.LATER, of=1) == 3

        assert queries.judgements_standing().get().verdict == "tie"
        assert books_balance(version)

    def test_stays_when_the_judgement_arrives_once_more(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        said = {"assignment": judged, "verdict": "left", "now": NOW}
        judging.judgement_record(**said, of=0)
        judging.judgement_undo(assignment=judged, now=self.LATER, of=1)

        again = judging.judgement_record(**said, of=0)

        assert (again.is_new, again.judgement.verdict, again.judgement.revision) == (False, "", 2)
        assert not queries.judgements_standing().exists()
        assert books_balance(version)

    def test_stays_when_a_revision_arrives_once_more(self) -> None:
        version, (labeler,) = queue(pairs=1)
        judged = assign(version, labeler)
        record(judged, "left")
        reason = {"assignment": judged, "verdict": "left", "reasons": ["clear"], "now": NOW}
        judging.judgement_record(**reason, revise=True, of=1)
        judging.judgement_record(
            assignment=judged, verdict="tie", now=self.LATER, revise=True, of=2
        )

        again = judging.judgement_record(**reason, revise=True, of=1)

        assert (again.is_new, again.judgement.verdict) == (False, "tie")

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

        judging.leases_release(model_id=version.model.pk, now=late + timedelta(minutes=31))

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


@pytest.mark.django_db
class TestSecondOpinions:
    def test_go_to_others_only(self) -> None:
        version, (mine, other) = queue(pairs=3, labelers=2)
        JudgingPolicy.objects.update(second_if_slight=True)
        for _ in range(3):
            record(assign(version, mine), "left")

        assert QueueEntry.objects.filter(opinions=1, last_labeler=mine).count() == 3
        with pytest.raises(judging.QueueEmpty):
            assign(version, mine)
        seen = set()
        for _ in range(3):
            lease = assign(version, other)
            seen.add(lease.pair_id)
            record(lease, "tie")
        assert len(seen) == 3
        assert not QueueEntry.objects.exists()

    def test_are_not_counted_as_waiting(self) -> None:
        version, (mine,) = queue(pairs=2)
        JudgingPolicy.objects.update(second_if_slight=True)
        record(assign(version, mine), "right")

        assert QueueEntry.objects.count() == 2
        assert queries.queue_length(version.model) == 1

    def test_of_several_go_to_whoever_has_no_part_in_the_pair(self) -> None:
        version, (one, two, three) = queue(pairs=1, labelers=3)
        JudgingPolicy.objects.update(audit_share=1)
        first = assign(version, one)
        record(first, "left_much")
        second = assign(version, two)
        record(second, "left_much" if first.first_is_left != second.first_is_left else "right_much")

        assert list(QueueEntry.objects.values_list("opinions", "wanted", "last_labeler")) == [
            (2, 1, two.pk)
        ]
        for labeler in (one, two):
            with pytest.raises(judging.QueueEmpty):
                assign(version, labeler)
        record(assign(version, three), "left")
        assert not QueueEntry.objects.exists()

    def test_are_asked_for_at_times_while_fresh_pairs_wait(self) -> None:
        version, (mine, other) = queue(pairs=80, labelers=2)
        JudgingPolicy.objects.update(audit_share=1)
        for _ in range(40):
            record(assign(version, mine), "tie")

        fresh = 0
        for _ in range(40):
            lease = assign(version, other)
            fresh += not lease.pair.assignments.exclude(pk=lease.pk).exists()
            record(lease, "tie")

        assert 16 <= fresh <= 39

    def test_keep_their_place_when_the_first_is_taken_back(self) -> None:
        version, (mine, other) = queue(pairs=1, labelers=2)
        JudgingPolicy.objects.update(second_if_slight=True)
        judged = assign(version, mine)
        record(judged, "left")

        judging.judgement_undo(assignment=judged, now=NOW)

        entry = QueueEntry.objects.get()
        assert (entry.wanted, entry.leased, entry.opinions, entry.last_labeler) == (2, 1, 0, None)
        theirs = assign(version, other)
        record(judged, "left_much")
        entry.refresh_from_db()
        assert (entry.wanted, entry.leased, entry.opinions) == (1, 1, 1)
        record(theirs, "tie")
        assert not QueueEntry.objects.exists()

    def test_know_of_late_judgements(self) -> None:
        version, (slow, other) = queue(pairs=1, labelers=2)
        lease = assign(version, slow)
        late = NOW + timedelta(minutes=31)
        judging.leases_release(model_id=version.model.pk, now=late)

        record(lease, "left", now=late)

        entry = QueueEntry.objects.get()
        assert (entry.wanted, entry.leased, entry.opinions, entry.last_labeler) == (1, 0, 1, slow)
        with pytest.raises(judging.QueueEmpty):
            assign(version, slow, now=late)
        assert assign(version, other, now=late).pair == lease.pair

    def test_never_of_comparisons(self) -> None:
        comparison = factories.ComparisonFactory.create()
        JudgingPolicy.objects.update(audit_share=1, second_of_new=9)
        prompt = factories.PromptFactory.create(model=comparison.model, split=Split.HOLDOUT)
        for side in (comparison.candidate, comparison.incumbent):
            factories.CompletionFactory.create(prompt=prompt, version=side)
        first, second = prompt.completions.order_by("pk")
        factories.QueueEntryFactory.create(
            pair=factories.PairFactory.create(
                prompt=prompt, first=first, second=second, purpose="compare", comparison=comparison
            )
        )

        record(assign(comparison.candidate, factories.UserFactory.create()), "left")

        assert not QueueEntry.objects.exists()

    def test_follow_another_overlap_at_once(self) -> None:
        version, (mine, other) = queue(pairs=3, labelers=2)
        JudgingPolicy.objects.update(second_if_slight=True)
        judged = assign(version, mine)
        assign(version, other)
        record(judged, "left")

        def change(overlap: int) -> list[tuple[int, int, int]]:
            policy = queries.policy_of(version.model)
            seen = edits.fingerprint(policy, ["overlap"])
            actions.policy_change(model=version.model, values={"overlap": overlap}, seen=seen)
            rows = QueueEntry.objects.order_by("-opinions", "pair")
            return list(rows.values_list("opinions", "wanted", "leased"))

        assert change(3) == [(1, 2, 0), (0, 3, 1), (0, 3, 0)]
        # The one that was judged has as many judgements as a pair should have now.
        assert change(1) == [(0, 1, 1), (0, 1, 0)]
        assert queries.queue_length(version.model) == 1


@pytest.mark.django_db
class TestReserved:
    def test_come_first_and_go_to_nobody_else(self) -> None:
        version, (mine, other) = queue(pairs=2, labelers=2)
        last = QueueEntry.objects.order_by("-pair")[0]
        QueueEntry.objects.filter(pk=last.pk).update(reserved_for=mine)

        assert queries.queue_length(version.model) == 1
        record(assign(version, other), "tie")
        with pytest.raises(judging.QueueEmpty):
            assign(version, other)
        assert assign(version, mine).pair_id == last.pk


@pytest.mark.django_db
class TestAhead:
    def ahead(self, version: ModelVersion, labeler: User, *have: Assignment) -> Assignment:
        return judging.pair_assign(
            model_id=version.model.pk,
            labeler=labeler,
            now=NOW,
            have=[one.pk for one in have],
            is_ahead=True,
        )

    def test_leases_another_pair_for_a_short_time(self) -> None:
        version, (mine,) = queue(pairs=2)
        shown = assign(version, mine)

        waits = self.ahead(version, mine, shown)

        assert waits.pair != shown.pair
        assert waits.expires_at == NOW + judging.WAITING
        assert self.ahead(version, mine, shown) == waits
        with pytest.raises(judging.QueueEmpty):
            self.ahead(version, mine, shown, waits)

    def test_lasts_as_long_as_any_once_it_is_shown(self) -> None:
        version, (mine,) = queue(pairs=1)
        waits = self.ahead(version, mine)

        shown = assign(version, mine)

        assert shown == waits
        assert shown.expires_at == NOW + timedelta(minutes=30)

    def keep(
        self,
        version: ModelVersion,
        labeler: User,
        shown: Assignment,
        *waiting: Assignment,
        now: datetime,
    ) -> list[object]:
        return judging.leases_keep(
            model=version.model, labeler=labeler, shown=shown.pk,
            waiting=[one.pk for one in waiting], now=now,
        )  # fmt: skip

    def test_is_kept_by_a_heartbeat(self) -> None:
        version, (mine, other) = queue(pairs=2, labelers=2)
        shown = assign(version, mine)
        waits = self.ahead(version, mine, shown)
        later = NOW + timedelta(minutes=4)

        assert self.keep(version, mine, shown, waits, now=later) == [waits.pk, shown.pk]

        ends = dict(Assignment.objects.values_list("pk", "expires_at"))
        assert ends == {
            shown.pk: later + timedelta(minutes=30), waits.pk: later + judging.WAITING,
        }  # fmt: skip
        assert self.keep(version, other, shown, waits, now=later) == []

    def test_is_taken_anew_unless_somebody_has_it(self) -> None:
        version, (mine, other) = queue(pairs=2, labelers=2)
        shown = assign(version, mine)
        waits = self.ahead(version, mine, shown)
        late = NOW + timedelta(minutes=31)
        judging.leases_release(model_id=version.model.pk, now=late)
        theirs = assign(version, other, now=late)
        (lost,) = [one for one in (shown, waits) if one.pair == theirs.pair]

        kept = self.keep(version, mine, shown, waits, now=late)

        assert set(kept) == {shown.pk, waits.pk} - {lost.pk}
        assert books_balance(version)

    def test_is_not_held_once_it_is_judged(self) -> None:
        version, (mine,) = queue(pairs=2)
        shown = assign(version, mine)
        record(shown, "tie")

        assert self.keep(version, mine, shown, now=NOW) == []
        assert books_balance(version)


@pytest.mark.django_db
class TestPairLater:
    def test_comes_again_when_nothing_else_waits(self) -> None:
        version, (mine, other) = queue(pairs=3, labelers=2)
        first = assign(version, mine)
        judging.pair_set_aside(assignment=first, is_aside=True, now=NOW)
        second = assign(version, mine)
        judging.pair_set_aside(assignment=second, is_aside=True, now=NOW + timedelta(seconds=1))
        third = assign(version, mine)

        assert len({first, second, third}) == 3
        record(third, "tie")
        assert assign(version, mine) == first
        with pytest.raises(judging.QueueEmpty):
            assign(version, other)
        record(first, "tie")
        assert assign(version, mine) == second
        assert books_balance(version)

    def test_is_taken_up_again_at_once(self) -> None:
        version, (mine,) = queue(pairs=2)
        first = assign(version, mine)
        judging.pair_set_aside(assignment=first, is_aside=True, now=NOW)
        assert assign(version, mine) != first

        judging.pair_set_aside(assignment=first, is_aside=False, now=NOW)

        first.refresh_from_db()
        assert first.set_aside_at is None
        assert assign(version, mine) == first
        assert books_balance(version)

    def test_has_an_end(self) -> None:
        version, (mine,) = queue(pairs=21)
        for _ in range(20):
            judging.pair_set_aside(assignment=assign(version, mine), is_aside=True, now=NOW)

        with pytest.raises(judging.TooManySetAside):
            judging.pair_set_aside(assignment=assign(version, mine), is_aside=True, now=NOW)


@pytest.mark.django_db
class TestRevise:
    def revise(self, lease: Assignment, verdict: str, **said: object) -> judging.Recorded:
        return judging.judgement_record(
            assignment=lease, verdict=verdict, now=NOW + timedelta(hours=1), revise=True,
            **said,  # type: ignore[arg-type]
        )  # fmt: skip

    def test_appends_what_is_said_now(self) -> None:
        version, (mine,) = queue(pairs=1)
        lease = assign(version, mine)
        record(lease, "left")

        said = self.revise(lease, "right_much", reasons=["safe"], note="I misread it.")

        assert (said.is_new, said.judgement.revision, said.in_all) == (True, 2, 1)
        (stands,) = queries.judgements_standing()
        assert (stands.verdict, stands.winner, stands.is_late) == ("right_much", lease.right, False)
        lease.refresh_from_db()
        assert lease.closed_at == NOW
        assert books_balance(version)

    def test_changes_nothing_when_it_says_the_same(self) -> None:
        version, (mine,) = queue(pairs=1)
        lease = assign(version, mine)
        record(lease, "left")

        assert not self.revise(lease, "left").is_new
        assert Judgement.objects.count() == 1

    def test_is_a_first_judgement_where_none_stands(self) -> None:
        version, (mine,) = queue(pairs=1)
        lease = assign(version, mine)

        assert self.revise(lease, "tie").judgement.revision == 1
        assert not QueueEntry.objects.exists()


@pytest.mark.django_db
class TestTally:
    def test_counts_what_stands_in_all_and_today(self) -> None:
        version, (mine,) = queue(pairs=4)
        yesterday = NOW - timedelta(days=1)
        record(assign(version, mine, now=yesterday), "tie", now=yesterday)
        said = [record(assign(version, mine), "tie") for _ in range(2)]
        judging.judgement_undo(assignment=said[-1].judgement.assignment, now=NOW)

        assert [(one.today, one.in_all) for one in said] == [(1, 2), (2, 3)]
        progress = queries.judging_progress(model=version.model, labeler=mine, since=NOW)
        assert (progress.today, progress.in_all, progress.waiting) == (1, 2, 1)
        assert progress.in_all == queries.judgements_count(version.model)

    def test_keeps_the_sides_even(self) -> None:
        version, (mine,) = queue(pairs=60)
        lead = 0
        for _ in range(60):
            lease = assign(version, mine)
            lead += 1 if lease.first_is_left else -1
            record(lease, "tie")
            assert Tally.objects.get().sides_lead == lead
            assert abs(lead) <= 4

    def test_keeps_the_candidates_sides_even(self) -> None:
        comparison = factories.ComparisonFactory.create()
        mine = factories.UserFactory.create()
        Tally.objects.create(model=comparison.model, labeler=mine, compare_lead=4, sides_lead=-4)
        for order in (1, -1):
            prompt = factories.PromptFactory.create(model=comparison.model, split=Split.HOLDOUT)
            for side in [comparison.candidate, comparison.incumbent][::order]:
                factories.CompletionFactory.create(prompt=prompt, version=side)
            first, second = prompt.completions.order_by("pk")
            pair = factories.PairFactory.create(
                prompt=prompt, first=first, second=second, purpose="compare", comparison=comparison
            )
            factories.QueueEntryFactory.create(pair=pair)

        lease = assign(comparison.candidate, mine)

        assert lease.right.version == comparison.candidate
        assert Tally.objects.get().compare_lead == 3


@pytest.mark.django_db
class TestStatements:
    """Beside these, a request reads its session and its user, and the model where no judgement says which."""

    def count(self, captured: CaptureQueriesContext) -> int:
        return len([one for one in captured if "SAVEPOINT" not in one["sql"]])

    @pytest.mark.parametrize("pairs", [3, 30])
    def test_are_two_of_a_lease_a_judgement_and_an_undo(self, pairs: int) -> None:
        version, (mine,) = queue(pairs=pairs)
        record(assign(version, mine), "tie")

        with CaptureQueriesContext(connection) as assigning:
            lease = assign(version, mine)
        with CaptureQueriesContext(connection) as recording:
            record(lease, "left")
        with CaptureQueriesContext(connection) as undoing:
            judging.judgement_undo(assignment=lease, now=NOW)

        assert [self.count(one) for one in (assigning, recording, undoing)] == [2, 2, 2]


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

    def test_two_hundred_pulls_by_eight_lease_no_pair_twice(self) -> None:
        version, labelers = queue(pairs=60, labelers=8, overlap=2)
        leased: list[Assignment] = []

        def pull(index: int) -> None:
            have: list[Assignment] = []
            for turn in range(25):
                try:
                    lease = judging.pair_assign(
                        model_id=version.model.pk, labeler=labelers[index], now=NOW,
                        have=[one.pk for one in have], is_ahead=bool(turn % 3),
                    )  # fmt: skip
                except judging.QueueEmpty:
                    continue
                have.append(lease)
                if len(have) > 2:
                    record(have.pop(0), "tie")
            leased.extend(have)

        in_parallel(8, pull)

        assert len(set(leased)) == len(leased)
        held = Counter(Assignment.objects.values_list("pair", flat=True))
        assert max(held.values()) <= 2
        assert not QueueEntry.objects.filter(leased__gt=F("wanted")).exists()
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
            model_id=version.model.pk, labeler=factories.UserFactory.create(), now=NOW
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
            8,
            lambda _: judging.pair_assign(model_id=version.model.pk, labeler=labeler, now=NOW).uuid,
        )

        assert len(set(results)) == 1
