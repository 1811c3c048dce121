"""Pairs whose answers tell how surely a labeler judges: gold pairs, and their own pairs again.

Both are served in the place of an ordinary pair and look like one. Neither is trained on, neither counts in a
comparison, and nobody is stopped by what comes of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q

from annotate import queries
from annotate.models import (
    DECIDED,
    Assignment,
    Completion,
    Gold,
    JudgingPolicy,
    Pair,
    QueueEntry,
    Repeat,
    Tally,
)
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused
from pairloop.lib.statements import Statement

#: So many judgements lie between a pair and its repeat, or the labeler remembers it.
REPEAT_AFTER = 50
#: Further ones that a repeat is chosen from.
REPEAT_FROM = 100
#: Judgements between two repeats, at least.
REPEAT_APART = 5
#: Gold pairs that are served; older ones rest.
GOLD_SERVED = 500
#: Tells such pairs from sampled ones.
ARM = "check"


class GoldImpossible(Refused):
    """Only a pair that somebody judged can become a gold pair."""

    code = "gold_impossible"


class GoldKnown(Refused):
    """This pair has a gold pair already."""

    code = "gold_known"


class GoldExpects(Refused):
    """Say which of the pair's two answers is the better one."""

    code = "gold_expects"


# --- Gold pairs ----------------------------------------------------------------------------------------


@transaction.atomic
def gold_make(*, pair: Pair, expected: int, why: str, by: User, now: datetime) -> Gold:
    """Make a gold pair from a judged one; `expected` is the id of the better completion. Raises Refused.

    Made again after it was retired, it is served again. Second opinions on the original are not asked for any
    more: whoever gave one would meet the pair twice.
    """
    if expected not in (pair.first_id, pair.second_id):
        raise GoldExpects
    if pair.purpose in (Pair.Purpose.GOLD, Pair.Purpose.REPEAT):
        raise GoldImpossible("This pair is a check itself; make a gold pair of its original.")
    if not queries.judgements_standing().filter(assignment__pair=pair).exists():
        raise GoldImpossible
    known = Gold.objects.select_for_update().filter(original=pair).first()
    QueueEntry.objects.filter(pair=pair, leased=0).delete()
    if known is None:
        return _gold_create(pair=pair, expected=expected, why=why, by=by, now=now)
    if known.retired_at is None:
        raise GoldKnown
    known.expected_id, known.why, known.made_by, known.retired_at = expected, why, by, None
    known.save(update_fields=["expected", "why", "made_by", "retired_at"])
    return known


def _gold_create(*, pair: Pair, expected: int, why: str, by: User, now: datetime) -> Gold:
    try:
        with transaction.atomic():
            return Gold.objects.create(
                pair=_copy(pair, Pair.Purpose.GOLD),
                model_id=pair.prompt.model_id,
                original=pair,
                expected_id=expected,
                why=why,
                made_by=by,
                made_at=now,
            )
    except IntegrityError as error:
        # Somebody else was faster by a moment.
        raise GoldKnown from error


def gold_retire(*, gold: Gold, now: datetime) -> None:
    """Serve a gold pair no more; what was said about it is kept. Repeating it changes nothing."""
    Gold.objects.filter(pk=gold.pk, retired_at=None).update(retired_at=now)


def _copy(pair: Pair, purpose: Pair.Purpose) -> Pair:
    return Pair.objects.create(
        prompt_id=pair.prompt_id,
        prompt_split=pair.prompt_split,
        first_id=pair.first_id,
        second_id=pair.second_id,
        purpose=purpose,
        arm=ARM,
    )


# --- Serving -------------------------------------------------------------------------------------------


def check_next(
    *,
    model: RegisteredModel,
    labeler: User,
    tally: Tally,
    policy: JudgingPolicy,
    now: datetime,
    chance: random.Random,
    until: datetime | None = None,
    first_left: bool = True,
) -> Assignment | None:
    """Lease a labeler a check in the place of an ordinary pair; None, on most turns, says to serve one.

    A coin decides before anything is read. Whoever calls has locked the labeler's tally. The lease is on top of the
    queue, which knows nothing of it, and lasts until a moment, by default as long as the policy says.
    `first_left` is tossed like any pair's sides; a repeat has those of its original, swapped.
    """
    toss = chance.random()
    if toss >= policy.gold_share + policy.repeat_share:
        return None
    if not _new_pair_waits(model):
        return None
    lease = _Lease(tally, labeler, now, until or now + timedelta(minutes=policy.lease_minutes))
    if toss < policy.gold_share:
        return _gold_next(model, lease, chance, first_left=first_left)
    if tally.judged < REPEAT_AFTER or tally.since_repeat < REPEAT_APART:
        return None
    return _repeat_next(model, lease, chance)


def _new_pair_waits(model: RegisteredModel) -> bool:
    """Whether a pair that nobody judged is free: a check that came when nothing else does would show itself.

    Exactly the condition of the index `queue_fresh`, so that one row is read.
    """
    free = QueueEntry.objects.filter(model=model, wanted__gt=F("leased"))
    return free.filter(opinions=0, reserved_for=None).exists()


@dataclass(frozen=True, slots=True)
class _Lease:
    """To whom, from when, until when."""

    tally: Tally
    labeler: User
    now: datetime
    until: datetime

    def open(self, pair_id: int, *, first_is_left: bool) -> Assignment:
        """Lease a pair on top of the queue, also one whose lease ended before it was judged; count its sides."""
        assignment, is_new = Assignment.objects.update_or_create(
            pair_id=pair_id,
            labeler=self.labeler,
            defaults={
                "expires_at": self.until, "closed_at": None, "is_on_top": True, "set_aside_at": None,
            },
            create_defaults={
                "first_is_left": first_is_left,
                "assigned_at": self.now,
                "expires_at": self.until,
                "is_on_top": True,
            },
        )  # fmt: skip
        lead = (1 if assignment.first_is_left else -1) if is_new else 0
        Tally.objects.filter(pk=self.tally.pk).update(
            turn=F("turn") + 1, sides_lead=F("sides_lead") + lead
        )
        return assignment


def _gold_next(
    model: RegisteredModel, lease: _Lease, chance: random.Random, *, first_left: bool
) -> Assignment | None:
    """Lease a gold pair that the labeler has not judged, and whose original they never had."""
    mine = Assignment.objects.filter(labeler=lease.labeler)
    stands = queries.judgements_standing().filter(assignment=OuterRef("pk"))
    done = mine.filter(Q(closed_at=None) | Exists(stands), pair=OuterRef("pair"))
    newest = Gold.objects.filter(model=model, retired_at=None).order_by("-pair")[:GOLD_SERVED]
    ids = list(
        Gold.objects.filter(
            ~Exists(done),
            ~Exists(mine.filter(pair=OuterRef("original"))),
            pk__in=newest.values("pk"),
        ).values_list("pk", flat=True)
    )
    if not ids:
        return None
    return lease.open(chance.choice(sorted(ids)), first_is_left=first_left)


@dataclass(frozen=True, slots=True)
class _Past:
    """What became of one of a labeler's assignments."""

    uuid: UUID
    pair_id: int
    first_is_left: bool
    purpose: str
    model_id: int
    verdict: str
    was_repeated: bool

    @property
    def is_judged(self) -> bool:
        """Whether what they said stands."""
        return bool(self.verdict)

    def can_be_repeated(self, model: RegisteredModel) -> bool:
        """Whether it is a decided judgement of this model that was not repeated."""
        is_check = self.purpose in (Pair.Purpose.GOLD, Pair.Purpose.REPEAT)
        is_free = not is_check and not self.was_repeated
        return self.verdict in DECIDED and is_free and self.model_id == model.pk

    def is_repeat_unjudged(self, model: RegisteredModel) -> bool:
        """Whether it is a repeat whose lease ended before it was judged."""
        is_repeat = self.purpose == Pair.Purpose.REPEAT and self.model_id == model.pk
        return is_repeat and not self.is_judged


#: A labeler's last assignments of all models that are closed, the newest first.
PAST = Statement(
    "checks_past",
    """
    SELECT lease.uuid, lease.pair_id, lease.first_is_left, pair.purpose, prompt.model_id,
           coalesce(said.verdict, ''), EXISTS (SELECT FROM annotate_repeat WHERE original_id = lease.uuid)
    FROM (
        SELECT uuid, pair_id, first_is_left, closed_at FROM annotate_assignment
        WHERE labeler_id = %(labeler)s::bigint AND closed_at IS NOT NULL
        ORDER BY closed_at DESC LIMIT %(window)s::int
    ) lease
    JOIN annotate_pair pair ON pair.id = lease.pair_id
    JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id
    LEFT JOIN LATERAL (
        SELECT verdict FROM annotate_judgement
        WHERE assignment_id = lease.uuid ORDER BY revision DESC LIMIT 1
    ) said ON TRUE
    ORDER BY lease.closed_at DESC
""",
)


def _repeat_next(model: RegisteredModel, lease: _Lease, chance: random.Random) -> Assignment | None:
    """Lease a labeler one of their own pairs again, chosen from a window of their past."""
    past = _past(lease.labeler)
    for one in past:
        if one.is_repeat_unjudged(model):
            return lease.open(one.pair_id, first_is_left=one.first_is_left)
    judged = [one for one in past if one.is_judged]
    options = [one for one in judged[REPEAT_AFTER:] if one.can_be_repeated(model)]
    if not options:
        return None
    original = chance.choice(options)
    pair = _copy(Pair.objects.get(pk=original.pair_id), Pair.Purpose.REPEAT)
    assignment = lease.open(pair.pk, first_is_left=not original.first_is_left)
    Tally.objects.filter(pk=lease.tally.pk).update(since_repeat=0)
    Repeat.objects.create(
        assignment=assignment, model=model, original_id=original.uuid, made_at=lease.now
    )
    return assignment


def _past(labeler: User) -> list[_Past]:
    window = REPEAT_AFTER + REPEAT_FROM
    return [_Past(*row) for row in PAST.rows({"labeler": labeler.pk, "window": window})]


def gold_of(*, model: RegisteredModel, pk: int) -> Gold:
    """Return a model's gold pair. Raises Gold.DoesNotExist."""
    return Gold.objects.select_related("pair", "original", "expected").get(model=model, pk=pk)


def is_expected(gold: Gold, winner: Completion | None) -> bool:
    """Whether a judgement of a gold pair prefers what it should."""
    return winner is not None and winner.pk == gold.expected_id
