"""What a version learned from, and what became of a pair: judgement, triple, snapshot, round, version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.models import Count, F, Func, Q, QuerySet

from annotate import queries as judging
from annotate.models import Judgement, Pair
from models_registry.models import ModelVersion, RegisteredModel
from training.models import Round, SnapshotItem

#: Tags that a table names; the others are only counted.
MOST_TAGS = 4

#: Labelers are counted, never named: who judged what is nobody's business who takes a version along.
_LABELERS = """
    SELECT item.snapshot_id, count(DISTINCT assignment.labeler_id), min(judgement.judged_at),
           max(judgement.judged_at)
    FROM training_snapshotitem item
    CROSS JOIN LATERAL unnest(item.judgement_ids) AS said (id)
    JOIN annotate_judgement judgement ON judgement.id = said.id
    JOIN annotate_assignment assignment ON assignment.uuid = judgement.assignment_id
    WHERE item.snapshot_id = ANY(%s)
    GROUP BY item.snapshot_id
"""


@dataclass(frozen=True, slots=True)
class Learned:
    """One version's lessons."""

    round: Round
    new: int
    replay: int
    #: How many of them came from files, without a judgement.
    imported: int
    labelers: int
    #: Of the oldest and the newest judgement; None when the triples came without any.
    first_at: datetime | None
    last_at: datetime | None
    #: (tag, triples), the commonest first.
    tags: tuple[tuple[str, int], ...]

    @property
    def triples(self) -> int:
        """All of them."""
        return self.new + self.replay

    @property
    def tags_named(self) -> tuple[tuple[str, int], ...]:
        """The commonest tags."""
        return self.tags[:MOST_TAGS]

    @property
    def tags_more(self) -> int:
        """How many tags are left out of those."""
        return max(len(self.tags) - MOST_TAGS, 0)


def learned_of(model: RegisteredModel) -> dict[int, Learned]:
    """Return what each version of a model learned from, by the version's id. Four queries."""
    return _learned(Round.objects.filter(model=model, version__isnull=False))


def learned_by(version: ModelVersion) -> Learned | None:
    """Return what one version learned from; None for a base. Four queries."""
    return _learned(Round.objects.filter(version=version)).get(version.pk)


def _learned(rounds: QuerySet[Round]) -> dict[int, Learned]:
    found = list(rounds.select_related("snapshot", "parent", "started_by").order_by("number"))
    snapshots = [round_.snapshot_id for round_ in found]
    roles = _roles(snapshots)
    people = _labelers(snapshots)
    tags = _tags(snapshots)
    nobody = (0, None, None)
    return {
        round_.version_id: Learned(
            round=round_,
            new=roles[round_.snapshot_id][0],
            replay=roles[round_.snapshot_id][1],
            imported=roles[round_.snapshot_id][2],
            labelers=people.get(round_.snapshot_id, nobody)[0],
            first_at=people.get(round_.snapshot_id, nobody)[1],
            last_at=people.get(round_.snapshot_id, nobody)[2],
            tags=tuple(tags[round_.snapshot_id]),
        )
        for round_ in found
        if round_.version_id is not None
    }


def _roles(snapshots: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Count new and replayed triples of each snapshot, and those of both that nobody judged."""
    rows = (
        SnapshotItem.objects.filter(snapshot__in=snapshots)
        .values("snapshot")
        .annotate(
            new=Count("pk", filter=Q(role=SnapshotItem.Role.NEW)),
            replay=Count("pk", filter=Q(role=SnapshotItem.Role.REPLAY)),
            imported=Count("pk", filter=Q(judgement_ids=[])),
        )
    )
    found = {row["snapshot"]: (row["new"], row["replay"], row["imported"]) for row in rows}
    return dict.fromkeys(snapshots, (0, 0, 0)) | found


def _labelers(snapshots: Sequence[int]) -> dict[int, tuple[int, datetime, datetime]]:
    """Count the labelers behind each snapshot, with the first and the last moment they judged."""
    with connection.cursor() as cursor:
        cursor.execute(_LABELERS, [list(snapshots)])
        return {row[0]: (row[1], row[2], row[3]) for row in cursor.fetchall()}


def _tags(snapshots: Sequence[int]) -> dict[int, list[tuple[str, int]]]:
    rows = (
        SnapshotItem.objects.filter(snapshot__in=snapshots)
        .annotate(tag=Func(F("prompt__tags"), function="unnest"))
        .values("snapshot", "tag")
        .annotate(n=Count("pk"))
        .order_by("snapshot", "-n", "tag")
    )
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        found[row["snapshot"]].append((row["tag"], row["n"]))
    return found


def items_of(version: ModelVersion) -> QuerySet[SnapshotItem]:
    """Select the triples that a version learned from, in the order they were judged."""
    return (
        SnapshotItem.objects.filter(snapshot__round__version=version)
        .select_related("prompt", "chosen__version", "rejected__version")
        .order_by("pair_id")
    )


@dataclass(frozen=True, slots=True)
class Use:
    """A round that had a pair's triple in its snapshot, and what came of it."""

    item: SnapshotItem
    round: Round


@dataclass(frozen=True, slots=True)
class Trail:
    """Everything that happened to a pair."""

    pair: Pair
    judgements: tuple[Judgement, ...]
    uses: tuple[Use, ...]


def uses_of(pair_ids: Collection[int]) -> dict[int, list[Use]]:
    """Return the rounds that took triples of pairs, by the pair's id and in order. Two queries."""
    items = list(SnapshotItem.objects.filter(pair__in=pair_ids).order_by("pk"))
    rounds = {
        round_.snapshot_id: round_
        for round_ in Round.objects.filter(snapshot__in={item.snapshot_id for item in items})
        .select_related("version")
        .order_by("number")
    }
    found: dict[int, list[Use]] = defaultdict(list)
    for item in items:
        if item.snapshot_id in rounds:
            found[item.pair_id].append(Use(item=item, round=rounds[item.snapshot_id]))
    for uses in found.values():
        uses.sort(key=lambda use: use.round.number)
    return found


def trail_of(*, model: RegisteredModel, pair_id: int) -> Trail:
    """Follow a pair from its judgements to the versions that learned from it. Raises Pair.DoesNotExist."""
    pair = Pair.objects.select_related("prompt__model", "first__version", "second__version").get(
        pk=pair_id, prompt__model=model
    )
    judgements = (
        judging.judgements_standing()
        .filter(assignment__pair=pair)
        .select_related("assignment__labeler")
        .order_by("pk")
    )
    items = (
        SnapshotItem.objects.filter(pair=pair)
        .select_related("snapshot__round__version")
        .order_by("snapshot__round__number")
    )
    return Trail(
        pair=pair,
        judgements=tuple(judgements),
        uses=tuple(Use(item=item, round=item.snapshot.round) for item in items),
    )
