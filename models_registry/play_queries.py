"""What the playground reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean
from uuid import UUID

from django.db.models import Count, QuerySet

from models_registry import serving
from models_registry.models import Alias, ModelVersion, Play, RegisteredModel, Serving
from models_registry.queries import versions_of

#: Seconds that answers take where none has come yet; two of 128 tokens take about that on two cores.
FIRST_ANSWER_S = 12
#: Answers over which the wait is averaged.
RECENT = 10


def plays_of(model: RegisteredModel) -> QuerySet[Play]:
    """Select a model's questions, the newest first."""
    return _plays().filter(model=model).order_by("-created_at", "-uuid")


def play_of(*, model: RegisteredModel, uuid: UUID) -> Play:
    """Return one question; raises Play.DoesNotExist for one of another model."""
    return _plays().get(model=model, uuid=uuid)


def plays_waiting(*, without: Collection[UUID] = ()) -> list[Play]:
    """Return the questions that wait for the engine, the oldest first."""
    waiting = _plays().filter(state=Play.State.WAITING).exclude(uuid__in=without)
    return list(waiting.order_by("created_at", "uuid"))


def _plays() -> QuerySet[Play]:
    return Play.objects.select_related(
        "model", "asked_by", "left_version__model", "right_version__model"
    )


def versions_playable(model: RegisteredModel) -> list[ModelVersion]:
    """Return the versions that may answer, the newest first; the engine loads those that it lacks."""
    return list(versions_of(model).filter(state=ModelVersion.State.VERIFIED))


def versions_unloaded(play: Play) -> list[ModelVersion]:
    """Return the versions of a question that the engine has yet to load, the newest first."""
    loaded = set(
        Serving.objects.filter(
            engine__in=serving.urls(), loaded_at__isnull=False, version__in=play.versions
        ).values_list("version_id", flat=True)
    )
    missing = [version for version in play.versions if version.pk not in loaded]
    return sorted(missing, key=lambda version: -version.number)


def pair_default(playable: list[ModelVersion]) -> tuple[ModelVersion, ModelVersion] | None:
    """Return which two to ask when nobody chose: the sampler against the champion, or else against v0.

    None when fewer than two may answer. The versions come with their aliases.
    """
    if len(playable) < 2:
        return None
    named = {alias.name: version for version in playable for alias in version.aliases.all()}
    first = named.get(Alias.SAMPLER, playable[0])
    rivals = [named.get(Alias.CHAMPION), playable[-1], playable[0]]
    return first, next(rival for rival in rivals if rival and rival != first)


def answer_seconds(play: Play) -> int:
    """Return how long a question takes from asking to both answers, by the model's last ones."""
    recent = Play.objects.filter(model=play.model_id, state=Play.State.ANSWERED)
    taken = recent.order_by("-answered_at").values_list("left_seconds", "right_seconds")[:RECENT]
    return round(
        fmean(max(left or 0, right or 0) for left, right in taken) if taken else FIRST_ANSWER_S
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """How often people picked which of two versions, blind."""

    newer: ModelVersion
    older: ModelVersion
    newer_better: int
    older_better: int
    equal: int
    both_bad: int

    @property
    def picks(self) -> int:
        """All picks."""
        return self.newer_better + self.older_better + self.equal + self.both_bad


def tallies_of(model: RegisteredModel) -> list[Tally]:
    """Count the blind picks of each pair of versions, the newest pair first. Two queries."""
    rows = (
        Play.objects.filter(model=model, is_blind=True)
        .exclude(pick="")
        .values_list("left_version", "right_version", "pick")
        .annotate(n=Count("pk"))
    )
    counts: dict[frozenset[int], dict[object, int]] = defaultdict(lambda: defaultdict(int))
    for left, right, pick, n in rows:
        sides = {Play.Pick.LEFT: left, Play.Pick.RIGHT: right}
        counts[frozenset((left, right))][sides.get(Play.Pick(pick), pick)] += n
    versions = ModelVersion.objects.in_bulk({pk for pair in counts for pk in pair})
    found = [_tally(sorted((versions[pk] for pk in pair), key=lambda one: -one.number), count)
             for pair, count in counts.items()]  # fmt: skip
    return sorted(found, key=lambda tally: (-tally.newer.number, -tally.older.number))


def _tally(pair: list[ModelVersion], count: dict[object, int]) -> Tally:
    newer, older = pair
    return Tally(
        newer=newer,
        older=older,
        newer_better=count[newer.pk],
        older_better=count[older.pk],
        equal=count[Play.Pick.EQUAL],
        both_bad=count[Play.Pick.BOTH_BAD],
    )
