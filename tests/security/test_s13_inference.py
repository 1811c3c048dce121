"""S13: nothing around two answers (ids, order, times, sides) lets a labeler guess which version wrote which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from django.db import connection
from django.utils import timezone

from annotate import judging
from annotate.models import Assignment, Pair
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(600)]

LABELERS, EACH = 20, 100
#: Of an area under the curve of LABELERS * EACH rows, half of each kind: sqrt((n0 + n1 + 1) / (12 n0 n1)).
#: Four of them, since six features are looked at in every run of this test.
SLACK = 4 * 0.0129


def area(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Return the area under the ROC curve (Mann-Whitney, ties count half): .5 says that scores tell nothing."""
    order = sorted(range(len(scores)), key=lambda index: scores[index])
    ranks = [0.0] * len(scores)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = (start + end + 1) / 2
        start = end
    positives = sum(labels)
    rank_sum = sum(rank for rank, label in zip(ranks, labels, strict=True) if label)
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))


class TestArea:
    def test_is_one_when_scores_tell_all(self):
        assert area([1, 2, 3, 4], [False, False, True, True]) == 1

    def test_is_a_half_when_they_tell_nothing(self):
        assert area([1, 1, 1, 1], [False, True, False, True]) == 0.5

    def test_counts_pairs_in_the_right_order(self):
        # Of 2 * 2 pairs of one of each kind, three are in order.
        assert area([1, 2, 3, 4], [False, True, False, True]) == 0.75


@pytest.fixture(scope="module")
def features() -> dict[str, Callable[[Assignment, int], float]]:
    """What somebody sees of an assignment, besides the texts."""
    return {
        "uuid": lambda one, _order: float(one.uuid.int >> 64),
        "uuid's end": lambda one, _order: float(one.uuid.int & 0xFFFF),
        "order": lambda _one, order: float(order),
        "order's parity": lambda _one, order: float(order % 2),
        "moment": lambda one, _order: float(one.assigned_at.microsecond),
        "end of the lease": lambda one, _order: float(one.expires_at.timestamp() % 60),
    }


def test_ids_order_and_times_tell_nothing(features):
    model = factories.RegisteredModelFactory()
    comparison = factories.ComparisonFactory(model=model, budget=EACH)
    for number in range(EACH):
        prompt = factories.PromptFactory(model=model, split="holdout")
        # The candidate's answers were written later, as they are: its ids are higher.
        incumbent = factories.CompletionFactory(prompt=prompt, version=comparison.incumbent)
        candidate = factories.CompletionFactory(prompt=prompt, version=comparison.candidate)
        pair = factories.PairFactory(
            prompt=prompt, first=incumbent, second=candidate, purpose=Pair.Purpose.COMPARE,
            comparison=comparison, priority=number,
        )  # fmt: skip
        factories.QueueEntryFactory(pair=pair, wanted=LABELERS)
    with connection.cursor() as cursor:
        # As PostgreSQL does by itself soon; else statements would go on as planned for empty tables.
        cursor.execute(
            "ANALYZE annotate_queueentry, annotate_assignment, annotate_pair, annotate_completion"
        )
    leases: list[tuple[int, Assignment]] = []
    for _ in range(LABELERS):
        labeler = factories.MembershipFactory(model=model).user
        mine = []
        for order in range(EACH):
            lease = judging.pair_assign(
                model_id=model.pk, labeler=labeler, now=timezone.now(), have=mine
            )
            mine.append(lease.uuid)
            leases.append((order, lease))
        assert len(set(mine)) == EACH
        # Balanced for each labeler, not only on average.
        on_the_left = sum(
            lease.left.version_id == comparison.candidate_id for _, lease in leases[-EACH:]
        )
        assert abs(on_the_left - EACH / 2) <= 3

    is_left = [lease.left.version_id == comparison.candidate_id for _, lease in leases]
    share = sum(is_left) / len(is_left)
    areas = {
        name: area([look(lease, order) for order, lease in leases], is_left)
        for name, look in features.items()
    }

    assert len(leases) == LABELERS * EACH
    assert abs(share - 0.5) <= 0.03
    assert {name: found for name, found in areas.items() if abs(found - 0.5) > SLACK} == {}


def test_sides_are_not_to_be_foreseen():
    """Whoever knew the last side must not know the next: as many changes as repetitions, within reason."""
    model = factories.RegisteredModelFactory()
    labeler = factories.MembershipFactory(model=model).user
    for _ in range(400):
        factories.QueueEntryFactory(pair__prompt__model=model)
    mine, sides = [], []
    for _ in range(400):
        lease = judging.pair_assign(
            model_id=model.pk, labeler=labeler, now=timezone.now(), have=mine
        )
        mine.append(lease.uuid)
        sides.append(lease.first_is_left)

    changes = sum(one != other for one, other in pairwise(sides))

    # A fair coin changes in half of the cases; one that is held to a lead of four changes somewhat more often.
    assert 0.4 < changes / (len(sides) - 1) < 0.72
