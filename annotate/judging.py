"""Everything that is written while people judge: leases, judgements, and taking them back."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from annotate import checks, guidelines, overlap, queries, tasks, turns
from annotate.models import (
    DECIDED,
    Assignment,
    Judgement,
    QueueEntry,
    Tally,
    Verdict,
)
from models_registry import actions as versions
from models_registry.models import Outcome, RegisteredModel
from pairloop.lib import jobs
from pairloop.lib.errors import Refused

#: Pairs that wait in a page beside the one that is shown.
AHEAD = 2
#: How long a pair that waits in a page is reserved; a heartbeat every minute prolongs it.
WAITING = timedelta(minutes=5)
#: So many pairs may be put off at once.
MOST_SET_ASIDE = 20
#: The left side is forced once it was used this much more, or less, often.
SIDE_SLACK = 4
#: Share of turns that look for second opinions before pairs that nobody has judged.
SECONDS_SHARE = 0.25

#: Of a model that has no policy yet.
DEFAULT_RULES = overlap.Rules(
    **{name: getattr(turns.DEFAULTS, name) for name in overlap.Rules.__slots__}
)


class QueueEmpty(Refused):
    """No pair waits for you right now."""

    code = "queue_empty"


class VerdictUnknown(Refused):
    """Choose one of the verdicts."""

    code = "verdict_unknown"


class TooManySetAside(Refused):
    """You have put off 20 pairs. Judge some of them first; “I can't judge” is an answer, too."""

    code = "too_many_set_aside"


# --- Leases ----------------------------------------------------------------------------------------------


def pair_assign(
    *,
    model_id: int,
    labeler: User,
    now: datetime,
    have: Collection[UUID] = (),
    is_ahead: bool = False,
) -> Assignment:
    """Return a lease of the labeler's that is not among those they have in hand, or the next pair.

    What they took back comes first, what they put off last. A pair that is fetched ahead is reserved for
    WAITING only. The assignment comes with all that is shown of it. Raises QueueEmpty.
    """
    chance = random.SystemRandom()
    arguments: dict[str, Any] = {
        "model_id": model_id, "labeler": labeler, "now": now, "chance": chance, "have": have, "is_ahead": is_ahead,
    }  # fmt: skip
    found = _leased(**arguments)
    if found is None and leases_release(model_id=model_id, now=now):
        found = _leased(**arguments)
    if found is None:
        # Outside of any transaction of ours, which this refusal would roll back.
        jobs.defer_once(tasks.pairs_top_up)
        raise QueueEmpty
    return found


@transaction.atomic
def _leased(
    *,
    model_id: int,
    labeler: User,
    now: datetime,
    have: Collection[UUID],
    is_ahead: bool,
    chance: random.Random,
) -> Assignment | None:
    """Lease a pair, or prolong a lease. Locks the labeler's tally and one entry of the queue."""
    desk = turns.desk_lock(model_id=model_id, labeler_id=labeler.pk)
    until = now + (WAITING if is_ahead else timedelta(minutes=desk.policy.lease_minutes))
    held = turns.held_of(desk, have=have, now=now)
    if held and not held[0].set_aside_at:
        return _prolong(held[0], now, until)
    first_left = _goes_left(desk.tally.sides_lead, chance)
    # gold and repeats: leased on top of the queue.
    check = checks.check_next(
        tally=desk.tally, policy=desk.policy, now=now, chance=chance, until=until, first_left=first_left,
    )  # fmt: skip
    if check:
        return check
    found = turns.pair_take(
        desk=desk,
        first_left=first_left,
        candidate_left=_goes_left(desk.tally.compare_lead, chance),
        seconds_first=chance.random() < SECONDS_SHARE,
        now=now,
        until=until,
        chance=chance,
    )
    if found is None and held:
        return _prolong(held[0], now, until)
    return found


def _prolong(lease: turns.Lease, now: datetime, until: datetime) -> Assignment:
    """Give a lease that was short, or has not long to go, its full time again."""
    if lease.expires_at - now < (until - now) / 2:
        Assignment.objects.filter(pk=lease.uuid).update(expires_at=until)
    return queries.assignment_with_pair(lease.uuid)


def _goes_left(lead: int, chance: random.Random) -> bool:
    """Toss a coin, unless what the labeler saw so far is lopsided already."""
    if abs(lead) >= SIDE_SLACK:
        return lead < 0
    return chance.random() < 0.5


@transaction.atomic
def leases_keep(
    *,
    model: RegisteredModel,
    labeler: User,
    shown: UUID | None,
    waiting: Sequence[UUID],
    now: datetime,
) -> list[UUID]:
    """Prolong what a labeler's page holds, and return what it still holds.

    A lease that had ended meanwhile is taken anew where nobody else has the pair.
    """
    desk = turns.desk_lock(model_id=model.pk, labeler_id=labeler.pk)
    until = dict.fromkeys(waiting, now + WAITING)
    if shown:
        until[shown] = now + timedelta(minutes=desk.policy.lease_minutes)
    kept = turns.leases_keep(model_id=model.pk, labeler_id=labeler.pk, until=sorted(until.items()))
    return [uuid for uuid in until if uuid in kept]


@transaction.atomic
def pair_set_aside(*, assignment: Assignment, is_aside: bool, now: datetime) -> None:
    """Put a pair off until nothing else waits for its labeler, who keeps it, or no longer. Raises TooManySetAside.

    What is judged, or was given back, stays as it is.
    """
    model = assignment.pair.prompt.model
    desk = turns.desk_lock(model_id=model.pk, labeler_id=assignment.labeler_id)
    others = [one for one in desk.leases if one.set_aside_at and one.uuid != assignment.pk]
    if is_aside and len(others) >= MOST_SET_ASIDE:
        raise TooManySetAside
    Assignment.objects.filter(pk=assignment.pk, closed_at=None).update(
        set_aside_at=now if is_aside else None,
        expires_at=now + timedelta(minutes=desk.policy.lease_minutes),
    )
    Tally.objects.filter(pk=desk.tally.pk).update(turn=F("turn") + 1)


@transaction.atomic
def leases_release(*, model_id: int, now: datetime) -> int:
    """Give the pairs of expired leases back to the queue; return how many."""
    return _leases_end(
        Assignment.objects.select_for_update(skip_locked=True, of=("self",)).filter(
            expires_at__lte=now, pair__prompt__model=model_id
        ),
        now=now,
    )


@transaction.atomic
def leases_give_back(*, labeler: User, now: datetime, model: RegisteredModel | None = None) -> int:
    """Give back what a labeler holds, of one model or of all, for somebody else to judge; return how many."""
    own = Tally.objects.select_for_update().filter(labeler=labeler).order_by("pk")
    locked = [tally.pk for tally in (own.filter(model=model) if model else own)]
    Tally.objects.filter(pk__in=locked).update(turn=F("turn") + 1)
    held = Assignment.objects.select_for_update(of=("self",)).filter(labeler=labeler)
    return _leases_end(held.filter(pair__prompt__model=model) if model else held, now=now)


@transaction.atomic
def lease_release(*, assignment: Assignment, now: datetime) -> None:
    """Give one leased pair back for somebody else to judge. One that was judged meanwhile stays so."""
    turns.desk_lock(model_id=assignment.pair.prompt.model_id, labeler_id=assignment.labeler_id)
    _leases_end(
        Assignment.objects.select_for_update(of=("self",)).filter(pk=assignment.pk), now=now
    )


def _leases_end(leases: QuerySet[Assignment, Assignment], *, now: datetime) -> int:
    ended = list(leases.filter(closed_at=None).order_by("pair"))
    for assignment in ended:
        if assignment.is_on_top:
            continue
        QueueEntry.objects.filter(pk=assignment.pair_id, leased__gt=0).update(
            leased=F("leased") - 1
        )
    Assignment.objects.filter(pk__in=[assignment.pk for assignment in ended]).update(closed_at=now)
    return len(ended)


# --- Judgements ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """What stands now, whether it is new, and how much its labeler has judged of the model."""

    judgement: Judgement
    is_new: bool
    today: int
    in_all: int


def judgement_record(
    *,
    assignment: Assignment | turns.Facts,
    verdict: str,
    now: datetime,
    reasons: Sequence[str] = (),
    note: str = "",
    active_ms: int = 0,
    shown_at: datetime | None = None,
    by: str = Judgement.Input.API,
    revise: bool = False,
    guidelines_seen: int | None = None,
    of: int | None = None,
) -> Recorded:
    """Record what a labeler said. While a judgement of theirs stands it stays, unless this one revises it.

    Never refused for being late: then it counts on top of the overlap. A revision that says the same as what
    stands changes nothing. Locks tally, assignment and entry, in one statement that is tried again when
    somebody changed one of them after it was read. Only what a comparison counts needs a transaction around it.
    Instead of the assignment, facts that were read just now will do.

    `guidelines_seen` is the number of the guidelines that its page showed; without it, `shown_at` decides.
    `of` is the latest revision that whoever speaks knows of, 0 for none: with another one, nothing changes. What
    hung in a network and was said again meanwhile is no news.
    """
    if verdict not in Verdict.values:
        raise VerdictUnknown
    known = assignment if isinstance(assignment, turns.Facts) else None
    uuid = assignment.uuid
    while True:
        facts = known or turns.facts_of(uuid)
        known = None
        is_outdated = of is not None and of != facts.revision
        if is_outdated and facts.said:
            return _stands(facts, Judgement.objects.get(pk=facts.said), now=now)
        said = Judgement(
            assignment_id=uuid,
            revision=facts.revision + 1,
            verdict=verdict,
            winner_id=_winner_of(facts, verdict),
            reasons=list(reasons),
            note=note,
            active_ms=active_ms,
            guidelines_version=_guidelines_of(facts, seen=guidelines_seen, shown_at=shown_at),
            is_late=now > facts.expires_at,
            judged_at=now,
            shown_at=shown_at,
            input=by,
        )
        if facts.verdict:
            stands = Judgement.objects.get(pk=facts.said or 0)
            if not revise or _is_same(stands, said):
                return _stands(facts, stands, now=now)
            said.is_late = stands.is_late
        with transaction.atomic() if facts.comparison_id else nullcontext():
            written = _written(facts, said)
        if written:
            said.pk = written.said
            said._state.adding = False  # noqa: SLF001 stored by a statement of ours
            return Recorded(judgement=said, is_new=True, today=written.today, in_all=written.in_all)


def _written(facts: turns.Facts, said: Judgement) -> turns.Written | None:
    """Store a judgement and what follows from it; None when what was known is no longer so."""
    day = timezone.localdate(said.judged_at)
    if facts.verdict:
        written = turns.revise(facts, said, day=day)
    else:
        written = turns.close(facts, said, wanted=_wanted_after(facts, said), day=day)
    if written and facts.comparison_id:
        if facts.verdict:
            versions.outcome_withdraw(source=facts.uuid, now=said.judged_at)
        _outcome_record(facts, said)
    return written


def _guidelines_of(facts: turns.Facts, *, seen: int | None, shown_at: datetime | None) -> int:
    """Return which guidelines a labeler had before them, also when somebody changed them meanwhile."""
    present = facts.guidelines_present
    if seen is not None:
        return min(seen, present)
    return guidelines.version_shown(
        facts.model_id,
        present=present,
        changed_at=facts.policy_at,
        shown_at=shown_at,
    )


def _is_same(stands: Judgement, said: Judgement) -> bool:
    return (stands.verdict, sorted(stands.reasons), stands.note) == (
        said.verdict,
        sorted(said.reasons),
        said.note,
    )


def _stands(facts: turns.Facts, stands: Judgement, *, now: datetime) -> Recorded:
    if facts.closed_at is None and stands.verdict:
        turns.judged_lease_end(facts.uuid, now=now)
    tally = Tally.objects.get(pk=facts.tally_id)
    today = tally.today if tally.day == timezone.localdate(now) else 0
    return Recorded(judgement=stands, is_new=False, today=today, in_all=tally.judged)


def _wanted_after(facts: turns.Facts, said: Judgement) -> int:
    """Return how many more judgements the pair wants after this one."""
    if facts.wanted is None:
        return 0
    left = facts.wanted - facts.counts
    if left or not facts.counts or facts.purpose not in overlap.PURPOSES:
        return left
    return left + overlap.wants_another(
        overlap.Opinion(said.verdict, said.winner_id),
        others=facts.others,
        rules=facts.rules or DEFAULT_RULES,
        judged_before=facts.judged,
        chance=random.SystemRandom(),
    )


@transaction.atomic
def judgement_undo(*, assignment: Assignment, now: datetime, of: int | None = None) -> int:
    """Take a standing judgement back and lease its labeler the pair again, with the same sides.

    A new revision says so: what a snapshot took from the old one stays in there. With nothing to take back
    it changes nothing, nor where the latest revision is another one than `of`. Returns the latest revision.
    """
    while True:
        facts = turns.facts_of(assignment.pk)
        is_outdated = of is not None and of != facts.revision
        if not facts.verdict or facts.judged_at is None or is_outdated:
            return facts.revision
        taken_back = Judgement(
            assignment=assignment,
            revision=facts.revision + 1,
            guidelines_version=facts.guidelines_present,
            judged_at=now,
        )
        until = now + timedelta(minutes=facts.lease_minutes or turns.DEFAULTS.lease_minutes)
        # It was counted when it was judged first; a revision since has not moved that.
        day = timezone.localdate(facts.closed_at or facts.judged_at)
        if turns.reopen(facts, taken_back, until=until, day=day):
            break
    if facts.comparison_id:
        versions.outcome_withdraw(source=facts.uuid, now=now)
    return taken_back.revision


#: What a comparison makes of verdicts that prefer neither; one who cannot judge says nothing about it.
UNDECIDED = {Verdict.TIE: Outcome.Kind.TIE, Verdict.BOTH_BAD: Outcome.Kind.BOTH_BAD}


def _outcome_record(facts: turns.Facts, judgement: Judgement) -> None:
    """Let a judgement of a comparison's pair count there."""
    compared = facts.compared
    if facts.comparison_id is None or compared is None:
        return
    if judgement.verdict == Verdict.CANNOT_JUDGE:
        return
    writers = {facts.first_id: compared.first_version, facts.second_id: compared.second_version}
    tokens = {
        compared.first_version: compared.first_tokens, compared.second_version: compared.second_tokens,
    }  # fmt: skip
    versions.outcome_record(
        comparison_id=facts.comparison_id,
        source=facts.uuid,
        labeler_id=facts.labeler_id,
        kind=UNDECIDED.get(Verdict(judgement.verdict), Outcome.Kind.WIN),
        winner_id=writers[judgement.winner_id] if judgement.winner_id else None,
        judged=versions.Judged(
            prompt_key=compared.sha256,
            tags=compared.tags,
            candidate_left=compared.first_is_candidate == facts.first_is_left,
            candidate_tokens=tokens[compared.candidate_id] or 0,
            incumbent_tokens=tokens[compared.incumbent_id] or 0,
        ),
        now=judgement.judged_at,
    )


def _winner_of(facts: turns.Facts, verdict: str) -> int | None:
    """Return the completion that a verdict prefers, by the sides as the labeler saw them."""
    if verdict not in DECIDED:
        return None
    is_left = verdict in {Verdict.LEFT, Verdict.LEFT_MUCH}
    return facts.first_id if is_left == facts.first_is_left else facts.second_id
