"""Pairs whose answers tell how surely a labeler judges: gold pairs, and their own pairs again.

Both are served in the place of an ordinary pair and look like one. Neither is trained on, neither counts in a
comparison, and nobody is stopped by what comes of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from annotate import queries, shown
from annotate.models import (
    DECIDED,
    Assignment,
    Completion,
    Gold,
    JudgingPolicy,
    Pair,
    QueueEntry,
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

#: Leases `chosen` on top of the queue, also where the lease ended before it was judged, and counts its sides.
_LEASE = """
    lease AS (
        INSERT INTO annotate_assignment AS own
            (uuid, pair_id, labeler_id, first_is_left, assigned_at, expires_at, is_on_top)
        SELECT gen_random_uuid(), chosen.pair_id, %(labeler)s::bigint, %(first_is_left)s::bool,
               %(now)s::timestamptz, %(until)s::timestamptz, TRUE
        FROM chosen
        ON CONFLICT (pair_id, labeler_id) DO UPDATE
        SET expires_at = EXCLUDED.expires_at, closed_at = NULL, is_on_top = TRUE, set_aside_at = NULL
        -- A row that was there before has an xmax.
        RETURNING own.*, own.xmax = 0 AS is_new
    ), counted AS (
        UPDATE annotate_tally tally
        SET turn = tally.turn + 1, since_repeat = CASE WHEN %(is_repeat)s::bool THEN 0 ELSE since_repeat END,
            sides_lead = tally.sides_lead
                + CASE WHEN NOT is_new THEN 0 WHEN first_is_left THEN 1 ELSE -1 END
        FROM lease WHERE tally.id = %(tally)s::bigint
    )"""
#: A check that came when nothing else does would show itself. Exactly the condition of the index `queue_fresh`,
#: so that one row is read.
_NEW_PAIR_WAITS = """EXISTS (
    SELECT FROM annotate_queueentry entry
    WHERE entry.model_id = %(model)s::bigint AND entry.wanted > entry.leased
      AND entry.opinions = 0 AND entry.reserved_for_id IS NULL
)"""
#: Leases a gold pair that the labeler has neither judged nor in hand, and whose original they never had.
GOLD = Statement(
    "checks_gold",
    f"""
    WITH free AS MATERIALIZED (
        SELECT gold.pair_id
        FROM (
            SELECT pair_id, original_id FROM annotate_gold
            WHERE model_id = %(model)s::bigint AND retired_at IS NULL
            ORDER BY pair_id DESC LIMIT {GOLD_SERVED}
        ) gold
        WHERE {_NEW_PAIR_WAITS}
          AND NOT EXISTS (
              SELECT FROM annotate_assignment mine
              WHERE mine.labeler_id = %(labeler)s::bigint AND mine.pair_id = gold.original_id
          )
          AND NOT EXISTS (
              SELECT FROM annotate_assignment mine
              WHERE mine.labeler_id = %(labeler)s::bigint AND mine.pair_id = gold.pair_id
                AND (mine.closed_at IS NULL OR coalesce((
                    SELECT verdict FROM annotate_judgement
                    WHERE assignment_id = mine.uuid ORDER BY revision DESC LIMIT 1), '') <> '')
          )
    ), chosen AS MATERIALIZED (
        SELECT pair_id FROM free ORDER BY pair_id LIMIT 1
        OFFSET (SELECT floor(%(luck)s::float8 * count(*)) FROM free)
    ), {_LEASE}
    {shown.select_from("lease")}
""",  # noqa: S608 constants
)
#: Leases a repeat again whose lease ended before it was judged.
REPEAT_AGAIN = Statement(
    "checks_repeat_again",
    f"""
    WITH chosen AS MATERIALIZED (SELECT %(pair)s::bigint AS pair_id), {_LEASE}
    {shown.select_from("lease")}
""",
)
#: Copies a pair and leases the copy, which stands for its labeler's assignment of the original.
REPEAT = Statement(
    "checks_repeat",
    f"""
    WITH copy AS (
        INSERT INTO annotate_pair
            (prompt_id, prompt_split, first_id, second_id, purpose, arm, priority, created_at)
        SELECT prompt_id, prompt_split, first_id, second_id, '{Pair.Purpose.REPEAT}', '{ARM}', 0, %(now)s
        FROM annotate_pair WHERE id = %(pair)s::bigint
        RETURNING *
    ), chosen AS MATERIALIZED (SELECT id AS pair_id FROM copy), {_LEASE}, noted AS (
        INSERT INTO annotate_repeat (assignment_id, model_id, original_id, made_at)
        SELECT uuid, %(model)s::bigint, %(original)s::uuid, %(now)s FROM lease
    )
    {shown.select_from("lease", pair="copy")}
""",  # noqa: S608 constants
)


def check_next(
    *,
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
    The assignment comes with all that is shown of it.
    """
    toss = chance.random()
    if toss >= policy.gold_share + policy.repeat_share:
        return None
    lease: dict[str, Any] = {
        "model": tally.model_id,
        "labeler": tally.labeler_id,
        "tally": tally.pk,
        "now": now,
        "until": until or now + timedelta(minutes=policy.lease_minutes),
    }
    if toss < policy.gold_share:
        return _gold_next(lease, chance, first_left=first_left)
    if tally.judged < REPEAT_AFTER or tally.since_repeat < REPEAT_APART:
        return None
    return _repeat_next(lease, chance)


def _leased(statement: Statement, parameters: dict[str, Any]) -> Assignment | None:
    row = statement.row(parameters)
    return shown.assignment_from(row) if row else None


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

    def can_be_repeated(self, model_id: int) -> bool:
        """Whether it is a decided judgement of this model that was not repeated."""
        is_check = self.purpose in (Pair.Purpose.GOLD, Pair.Purpose.REPEAT)
        is_free = not is_check and not self.was_repeated
        return self.verdict in DECIDED and is_free and self.model_id == model_id

    def is_repeat_unjudged(self, model_id: int) -> bool:
        """Whether it is a repeat whose lease ended before it was judged."""
        is_repeat = self.purpose == Pair.Purpose.REPEAT and self.model_id == model_id
        return is_repeat and not self.is_judged


#: A labeler's last assignments of all models that are closed, the newest first; none while no new pair waits.
PAST = Statement(
    "checks_past",
    f"""
    SELECT lease.uuid, lease.pair_id, lease.first_is_left, pair.purpose, prompt.model_id,
           coalesce(said.verdict, ''), EXISTS (SELECT FROM annotate_repeat WHERE original_id = lease.uuid)
    FROM (
        SELECT uuid, pair_id, first_is_left, closed_at FROM annotate_assignment
        WHERE labeler_id = %(labeler)s::bigint AND closed_at IS NOT NULL AND {_NEW_PAIR_WAITS}
        ORDER BY closed_at DESC LIMIT {REPEAT_AFTER + REPEAT_FROM}
    ) lease
    JOIN annotate_pair pair ON pair.id = lease.pair_id
    JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id
    LEFT JOIN LATERAL (
        SELECT verdict FROM annotate_judgement
        WHERE assignment_id = lease.uuid ORDER BY revision DESC LIMIT 1
    ) said ON TRUE
    ORDER BY lease.closed_at DESC
""",  # noqa: S608 constants
)


def _gold_next(
    lease: dict[str, Any], chance: random.Random, *, first_left: bool
) -> Assignment | None:
    """Lease a labeler any of the gold pairs that are new to them."""
    asked = {"first_is_left": first_left, "is_repeat": False, "luck": chance.random()}
    return _leased(GOLD, lease | asked)


def _repeat_next(lease: dict[str, Any], chance: random.Random) -> Assignment | None:
    """Lease a labeler one of their own pairs again, chosen from a window of their past."""
    model_id = lease["model"]
    past = [_Past(*row) for row in PAST.rows(lease)]
    for one in past:
        if one.is_repeat_unjudged(model_id):
            again = {"pair": one.pair_id, "first_is_left": one.first_is_left, "is_repeat": False}
            return _leased(REPEAT_AGAIN, lease | again)
    judged = [one for one in past if one.is_judged]
    options = [one for one in judged[REPEAT_AFTER:] if one.can_be_repeated(model_id)]
    if not options:
        return None
    original = chance.choice(options)
    swapped = {"first_is_left": not original.first_is_left, "is_repeat": True}
    return _leased(REPEAT, lease | {"pair": original.pair_id, "original": original.uuid} | swapped)


def gold_of(*, model: RegisteredModel, pk: int) -> Gold:
    """Return a model's gold pair. Raises Gold.DoesNotExist."""
    return Gold.objects.select_related("pair", "original", "expected").get(model=model, pk=pk)


def is_expected(gold: Gold, winner: Completion | None) -> bool:
    """Whether a judgement of a gold pair prefers what it should."""
    return winner is not None and winner.pk == gold.expected_id
