"""What became of a judgement, in words that keep its labeler blind.

A labeler may learn which version a round made of what they said, and how that version did. They never learn:
which completion a version wrote; which pairs compare two versions, and which only check quality; any number that
their next judgement could move, since watching it move would tell which side is the newer version's.
docs/decisions.md says more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.db.models import Max

from annotate.models import Judgement, Pair, Verdict
from annotate.triples import CONFIDENCE
from models_registry import queries as registry
from models_registry.models import ModelVersion, RegisteredModel
from models_registry.queries import Ending
from training import learned, measures
from training.learned import Use
from training.models import Round, SnapshotItem

Kind = Literal["waits", "frozen", "used", "no_triple", "measures"]

#: With fewer votes, somebody might find their own in a win rate.
LEAST_VOTES = 10
#: A round that took a triple and gave it back.
CAME_TO_NOTHING = {Round.State.FAILED: "failed", Round.State.CANCELLED: "was cancelled"}
STATES = {
    Round.State.QUEUED: "queued",
    Round.State.RUNNING: "running",
}


@dataclass(frozen=True, slots=True)
class Doing:
    """How the version did that a round made."""

    version: ModelVersion
    is_champion: bool
    #: Phrases, each with its interval and n.
    figures: tuple[str, ...]
    #: Why it is not used, or not any more; empty: nothing is known against it.
    trouble: str


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one judgement."""

    kind: Kind
    #: A sentence without its full stop.
    said: str
    #: What a change would still do; empty where it goes without saying.
    change: str = ""
    #: The round that used it first.
    round: Round | None = None
    doing: Doing | None = None
    #: Later rounds that repeated it.
    replays: tuple[Round, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """One assignment's revisions, the oldest first, the last of which stands."""

    pair: Pair
    revisions: tuple[Judgement, ...]

    @property
    def standing(self) -> Judgement:
        """What counts."""
        return self.revisions[-1]

    @property
    def first(self) -> Judgement:
        """What was said first."""
        return self.revisions[0]


def fates_of(model: RegisteredModel, told: Sequence[Told]) -> list[Fate]:
    """Tell what became of judgements of one model, in their order. At most six queries, however many."""
    uses = learned.uses_of([one.pair.pk for one in told])
    doings = _doings(model, [use.round for found in uses.values() for use in found])
    newest = Round.objects.filter(model=model).aggregate(last=Max("created_at"))["last"]
    return [
        _fate(one, _uses_of_mine(one, uses.get(one.pair.pk, ())), doings, newest) for one in told
    ]


def _uses_of_mine(told: Told, uses: Iterable[Use]) -> list[Use]:
    """Return the rounds that took one of these revisions; others may have judged the pair, too."""
    mine = {revision.pk for revision in told.revisions}
    return [use for use in uses if mine.intersection(use.item.judgement_ids)]


def _fate(
    told: Told, uses: Sequence[Use], doings: Mapping[int, Doing], newest: datetime | None
) -> Fate:
    taken = [use for use in uses if use.round.state not in CAME_TO_NOTHING]
    if taken:
        return _taken(told, taken, doings)
    verdict = told.standing.verdict
    if verdict not in CONFIDENCE:
        return Fate("no_triple", NO_TRIPLE[Verdict(verdict)])
    if told.pair.purpose != Pair.Purpose.TRAIN and newest and told.first.judged_at < newest:
        # Not before a round has taken what was judged beside it, and the same words for every other purpose:
        # so neither a comparison nor a quality check stands out.
        return Fate("measures", "It measures; no round trains on it")
    if uses:
        last = uses[-1].round
        why = CAME_TO_NOTHING[Round.State(last.state)]
        return Fate("waits", f"Round {last.number} {why}; it waits for the next one")
    return Fate("waits", "Waits for a round")


#: The same words whatever the pair is for.
NO_TRIPLE = {
    Verdict.BOTH_BAD: "No triple: both are bad, so the prompt counts as a weak spot",
    Verdict.CANNOT_JUDGE: "No triple: you could not judge it",
}


def _taken(told: Told, uses: Sequence[Use], doings: Mapping[int, Doing]) -> Fate:
    """Tell of a judgement that is in at least one snapshot."""
    new = [use for use in uses if use.item.role == SnapshotItem.Role.NEW]
    use = (new or uses)[0]
    round_ = use.round
    if round_.is_open:
        said = f"In the snapshot of round {round_.number} ({STATES[Round.State(round_.state)]})"
        return Fate("frozen", said, _change(told, uses), round_)
    said = f"Used in round {round_.number}"
    return Fate(
        "used",
        said,
        _change(told, uses),
        round_,
        doing=doings.get(round_.pk),
        replays=tuple(other.round for other in uses if other is not use),
    )


def _change(told: Told, uses: Sequence[Use]) -> str:
    """Say what a change does that comes, or came, after a round had frozen the judgement."""
    last = uses[-1].item.judgement_ids
    frozen = [revision for revision in told.revisions if revision.pk in last][-1]
    if frozen.verdict == told.standing.verdict:
        return "A change counts for later rounds"
    was = Verdict(frozen.verdict).label
    if told.standing.verdict in CONFIDENCE:
        return f"There you had said “{was}”; your change counts for later rounds"
    return f"There you had said “{was}”; after your change, later rounds go without it"


def _doings(model: RegisteredModel, rounds: Iterable[Round]) -> dict[int, Doing]:
    """Tell how the versions of rounds did, by the round's id. Three queries."""
    made = {round_.pk: round_ for round_ in rounds if round_.version}
    if not made:
        return {}
    champion = registry.champion_of(model)
    ids = {round_.version_id for round_ in made.values() if round_.version_id}
    endings = registry.endings_of(ids, least=LEAST_VOTES)
    return {
        pk: _doing(round_, round_.version, champion, endings.get(round_.version.pk))
        for pk, round_ in made.items()
        if round_.version
    }


def _doing(
    round_: Round, version: ModelVersion, champion: ModelVersion | None, ending: Ending | None
) -> Doing:
    figures = []
    if ending:
        rate = ending.win_rate
        figures.append(
            f"wins {rate.value:.0%} {_interval(rate.low, rate.high)} of {ending.decisive} votes against"
            f" {ending.incumbent}"
        )
    accuracy = measures.values_of(round_).get("accuracy")
    if accuracy and accuracy.interval:
        figures.append(
            f"prefers the good answer in {accuracy.value:.0%} {_interval(*accuracy.interval)} of"
            f" {accuracy.cases} held-out pairs"
        )
    if not figures:
        is_open = round_.state == Round.State.EVALUATING
        figures.append("is being measured" if is_open else "is not measured yet")
    return Doing(
        version=version,
        is_champion=version == champion,
        figures=tuple(figures),
        trouble=_trouble(version),
    )


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:.0f}, {100 * high:.0f}]"


def _trouble(version: ModelVersion) -> str:
    """Say what keeps a version from being used. Not which guardrail: "too short" would tell its answers apart."""
    if version.state == ModelVersion.State.CORRUPT:
        return "its files are damaged"
    if version.state == ModelVersion.State.RETIRED:
        return "it is retired"
    if registry.guardrails_failed(version):
        return "it left the guardrails, so it writes no pairs"
    return ""


def told_of(judgements: Collection[Judgement], revisions: Iterable[Judgement]) -> list[Told]:
    """Join standing judgements with everything that was said before; what only took back is left out."""
    by_assignment: dict[object, list[Judgement]] = {}
    for revision in revisions:
        if revision.verdict:
            by_assignment.setdefault(revision.assignment_id, []).append(revision)
    return [
        Told(
            pair=judgement.assignment.pair,
            revisions=tuple(
                revision
                for revision in by_assignment.get(judgement.assignment_id, [judgement])
                if revision.revision <= judgement.revision
            ),
        )
        for judgement in judgements
    ]
