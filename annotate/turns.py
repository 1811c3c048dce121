"""The SQL of a labeler's turn: what they hold, what they get next, what is written when they judge.

Each statement replaces several, since this is what people wait for: a judgement is two of them, a new lease is
two. None of them counts rows or sorts more than a few, however many pairs are stored.

Locks are taken in one order: a labeler's tally, the assignment, the queue's entry. Entries are only waited for
by those who hold no other entry, so nobody waits in a circle.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from annotate import shown
from annotate.models import Assignment, Judgement, JudgingPolicy, Tally
from annotate.overlap import Opinion, Rules
from pairloop.lib.statements import Columns, Statement

#: Above every id of a labeler.
HIGHEST = 2**31 - 1
#: How many pairs with several opinions are looked at for one that the labeler has no part in.
WINDOW = 64


# --- What a labeler holds ------------------------------------------------------------------------------

#: Of a model that has no policy.
DEFAULTS = JudgingPolicy()
_TALLY = Columns("mine", Tally)
_POLICY = Columns("policy", JudgingPolicy)
#: Locks the tally, and lists the open leases as the statement's snapshot has them. Whoever had to wait for the
#: lock has a snapshot from before: then the locked row's turn is another one than the snapshot's. The leases are
#: found by the parameter: joined to the tally's labeler, a plan may walk through what everybody holds.
HELD = Statement(
    "judging_held",
    f"""
    WITH mine AS MATERIALIZED (
        SELECT * FROM annotate_tally
        WHERE model_id = %(model)s AND labeler_id = %(labeler)s FOR UPDATE
    )
    SELECT mine.turn = seen.turn,
           (SELECT max(labeler_id) FROM annotate_tally WHERE model_id = %(model)s),
           lease.uuid, lease.pair_id, lease.assigned_at, lease.expires_at, lease.set_aside_at,
           (SELECT max(id) FROM annotate_judgement WHERE assignment_id = lease.uuid),
           {_TALLY.sql}, {_POLICY.sql}
    FROM mine
    JOIN annotate_tally seen ON seen.id = mine.id
    LEFT JOIN annotate_judgingpolicy policy ON policy.model_id = mine.model_id
    LEFT JOIN (
        annotate_assignment lease
        JOIN annotate_pair pair ON pair.id = lease.pair_id
        JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id AND prompt.model_id = %(model)s
    ) ON lease.labeler_id = %(labeler)s AND lease.closed_at IS NULL
""",  # noqa: S608 columns of ours
)
TALLY_CREATE = Statement(
    "judging_tally_create",
    """
    INSERT INTO annotate_tally
        (model_id, labeler_id, judged, today, sides_lead, compare_lead, since_repeat, turn)
    VALUES (%(model)s, %(labeler)s, 0, 0, 0, 0, 0, 0)
    ON CONFLICT (model_id, labeler_id) DO NOTHING
""",
)


@dataclass(frozen=True, slots=True)
class Lease:
    """An open lease of a labeler's. `said` is their last judgement of it, which they took back."""

    uuid: UUID
    pair_id: int
    assigned_at: datetime
    expires_at: datetime
    set_aside_at: datetime | None
    said: int | None


@dataclass(frozen=True, slots=True)
class Desk:
    """A labeler's locked tally of a model and all open leases they have there, expired ones too."""

    tally: Tally
    #: The model's; the defaults while it has none.
    policy: JudgingPolicy
    leases: tuple[Lease, ...]
    #: The highest id of a labeler of this model.
    last_labeler: int


def desk_lock(*, model_id: int, labeler_id: int) -> Desk:
    """Lock what is counted of a labeler, which makes their requests take turns; return what they hold."""
    whose = {"model": model_id, "labeler": labeler_id}
    while True:
        rows = HELD.rows(whose)
        if rows and rows[0][0]:
            break
        if not rows:
            TALLY_CREATE.rows(whose)
    first = rows[0]
    policy_at = 8 + len(_TALLY)
    return Desk(
        tally=_TALLY.instance(first[8:policy_at]),
        policy=_POLICY.instance(first[policy_at:]) or JudgingPolicy(model_id=model_id),
        leases=tuple(Lease(*row[2:8]) for row in rows if row[2]),
        last_labeler=first[1],
    )


# --- What they get next --------------------------------------------------------------------------------

_FREE = "entry.model_id = %(model)s AND entry.wanted > entry.leased"
_NOT_HELD = "entry.pair_id <> ALL(%(held)s::bigint[])"

#: Each band is read from the start of a partial index of its own until the first row that nobody else has
#: locked: only what this labeler holds and what others take at this moment is passed by.
RESERVED = f"""
    SELECT entry.pair_id FROM annotate_queueentry entry
    WHERE {_FREE} AND entry.reserved_for_id = %(labeler)s AND entry.opinions = 0 AND {_NOT_HELD}
    ORDER BY entry.pair_id LIMIT 1 FOR UPDATE SKIP LOCKED
"""  # noqa: S608 constants
FRESH = f"""
    SELECT entry.pair_id FROM annotate_queueentry entry
    WHERE {_FREE} AND entry.opinions = 0 AND entry.reserved_for_id IS NULL AND {_NOT_HELD}
    ORDER BY entry.priority DESC, entry.pair_id LIMIT 1 FOR UPDATE SKIP LOCKED
"""  # noqa: S608
#: Judged by one other person. The ranges of labelers leave this one out, so nothing of theirs is walked over.
SECOND = f"""
    SELECT found.pair_id
    FROM unnest(%(lows)s::int[], %(highs)s::int[]) AS others (low, high)
    CROSS JOIN LATERAL (
        SELECT entry.pair_id FROM annotate_queueentry entry
        WHERE {_FREE} AND entry.opinions = 1 AND entry.reserved_for_id IS NULL AND {_NOT_HELD}
          AND entry.last_labeler_id BETWEEN others.low AND others.high
        ORDER BY entry.last_labeler_id, entry.pair_id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) found LIMIT 1
"""  # noqa: S608
#: Judged by several, so the labeler may be one of them. A window from a random pair on, then from the first,
#: bounds the work; what is missed now is found another time.
_SEVERAL = f"{_FREE} AND entry.opinions > 1 AND entry.reserved_for_id IS NULL"
THIRD = f"""
    SELECT found.pair_id
    FROM (
        (SELECT entry.pair_id FROM annotate_queueentry entry
         WHERE {_SEVERAL} AND entry.pair_id >= (
             SELECT (%(luck)s::float8 * max(entry.pair_id))::bigint FROM annotate_queueentry entry
             WHERE {_SEVERAL})
         ORDER BY entry.pair_id LIMIT {WINDOW})
        UNION ALL
        (SELECT entry.pair_id FROM annotate_queueentry entry WHERE {_SEVERAL}
         ORDER BY entry.pair_id LIMIT {WINDOW})
    ) looked_at
    -- One row each: so that this is what the others are looked up by, whatever the planner expects.
    CROSS JOIN LATERAL (
        SELECT entry.pair_id FROM annotate_queueentry entry
        WHERE entry.pair_id = looked_at.pair_id AND {_SEVERAL} AND {_NOT_HELD}
          AND NOT EXISTS (
              SELECT FROM annotate_assignment own
              CROSS JOIN LATERAL (
                  SELECT verdict FROM annotate_judgement
                  WHERE assignment_id = own.uuid ORDER BY revision DESC LIMIT 1
              ) said
              WHERE own.pair_id = entry.pair_id AND own.labeler_id = %(labeler)s AND said.verdict <> ''
          )
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) found LIMIT 1
"""  # noqa: S608

#: Takes the first pair of the bands in their order, leases it and counts its sides. Somebody who had the pair
#: before, and gave it back, keeps their sides of it.
TAKE = """
    WITH chosen AS MATERIALIZED (
        SELECT pair_id FROM ({bands}) band LIMIT 1
    ), leased AS (
        UPDATE annotate_queueentry entry SET leased = entry.leased + 1
        FROM chosen WHERE entry.pair_id = chosen.pair_id
    ), side AS (
        SELECT pair.id AS pair_id, comparison.id IS NOT NULL AS is_compared,
               CASE WHEN comparison.id IS NULL THEN %(first_left)s
                    ELSE (first.version_id = comparison.candidate_id) = %(candidate_left)s
               END AS first_is_left
        FROM chosen
        JOIN annotate_pair pair ON pair.id = chosen.pair_id
        JOIN annotate_completion first ON first.id = pair.first_id
        LEFT JOIN models_registry_comparison comparison ON comparison.id = pair.comparison_id
    ), lease AS (
        INSERT INTO annotate_assignment AS own
            (uuid, pair_id, labeler_id, first_is_left, assigned_at, expires_at, is_on_top)
        SELECT gen_random_uuid(), pair_id, %(labeler)s, first_is_left, %(now)s::timestamptz, %(until)s::timestamptz, FALSE FROM side
        ON CONFLICT (pair_id, labeler_id) DO UPDATE
        SET expires_at = EXCLUDED.expires_at, closed_at = NULL, is_on_top = FALSE, set_aside_at = NULL
        -- A row that was there before has an xmax.
        RETURNING own.*, own.xmax = 0 AS is_new
    ), counted AS (
        UPDATE annotate_tally tally
        SET turn = tally.turn + 1,
            sides_lead = tally.sides_lead
                + CASE WHEN NOT is_new THEN 0 WHEN lease.first_is_left THEN 1 ELSE -1 END,
            compare_lead = tally.compare_lead
                + CASE WHEN NOT (is_new AND is_compared) THEN 0 WHEN %(candidate_left)s THEN 1 ELSE -1 END
        FROM lease, side WHERE tally.id = %(tally)s
    )
    {shown}
"""


def _take(name: str, *bands: str) -> Statement:
    """Return TAKE over bands in this order; the later ones are not even begun when an earlier one has a pair."""
    in_order = " UNION ALL ".join(f"(SELECT * FROM ({band}) one)" for band in bands)  # noqa: S608
    return Statement(name, TAKE.format(bands=in_order, shown=shown.select_from("lease")))


_FRESH_FIRST = _take("judging_take", RESERVED, FRESH, SECOND, THIRD)
_SECONDS_FIRST = _take("judging_take_second", RESERVED, SECOND, THIRD, FRESH)


def pair_take(
    *,
    desk: Desk,
    first_left: bool,
    candidate_left: bool,
    seconds_first: bool,
    now: datetime,
    until: datetime,
    chance: random.Random,
) -> Assignment | None:
    """Lease the next pair to the labeler whose desk is locked, with all that is shown of it; None without one."""
    tally = desk.tally
    ranges = _ranges(tally.labeler_id, chance.randint(0, desk.last_labeler))
    take = _SECONDS_FIRST if seconds_first else _FRESH_FIRST
    row = take.row(
        {
            "model": tally.model_id,
            "labeler": tally.labeler_id,
            "tally": tally.pk,
            "held": [lease.pair_id for lease in desk.leases],
            "lows": [low for low, _ in ranges],
            "highs": [high for _, high in ranges],
            "luck": chance.random(),
            "first_left": first_left,
            "candidate_left": candidate_left,
            "now": now,
            "until": until,
        }
    )
    return shown.assignment_from(row) if row else None


def _ranges(labeler: int, start: int) -> list[tuple[int, int]]:
    """Return the ranges of all other labelers' ids, beginning at the start and wrapping around."""
    if start <= labeler:
        return [(start, labeler - 1), (labeler + 1, HIGHEST), (0, start - 1)]
    return [(start, HIGHEST), (0, labeler - 1), (labeler + 1, start - 1)]


# --- Holding on ----------------------------------------------------------------------------------------

#: Prolongs own leases that are open; takes those anew that had ended, where the pair is still free for them. A
#: gold pair or a repeat is not in the queue and free for its labeler until it is judged.
#: Reads `shown` and `waiting` as one list with an end for each.
KEEP = Statement(
    "judging_keep",
    """
    WITH asked AS (
        SELECT own.uuid, own.pair_id, own.closed_at, wish.until,
               pair.purpose IN ('gold', 'repeat') AS is_check,
               EXISTS (
                   SELECT FROM annotate_judgement said
                   WHERE said.assignment_id = own.uuid AND said.verdict <> '' AND said.revision = (
                       SELECT max(revision) FROM annotate_judgement WHERE assignment_id = own.uuid)
               ) AS is_judged
        FROM unnest(%(uuids)s::uuid[], %(untils)s::timestamptz[]) AS wish (uuid, until)
        JOIN annotate_assignment own USING (uuid)
        JOIN annotate_pair pair ON pair.id = own.pair_id
        JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id AND prompt.model_id = %(model)s
        WHERE own.labeler_id = %(labeler)s
        FOR UPDATE OF own
    ), again AS (
        SELECT entry.pair_id, asked.uuid FROM annotate_queueentry entry JOIN asked USING (pair_id)
        WHERE asked.closed_at IS NOT NULL AND entry.wanted > entry.leased
          AND coalesce(entry.reserved_for_id, %(labeler)s) = %(labeler)s
          AND NOT asked.is_judged
        FOR UPDATE OF entry SKIP LOCKED
    ), leased AS (
        UPDATE annotate_queueentry entry SET leased = entry.leased + 1
        FROM again WHERE entry.pair_id = again.pair_id
    ), counted AS (
        UPDATE annotate_tally SET turn = turn + 1 WHERE model_id = %(model)s AND labeler_id = %(labeler)s
    )
    UPDATE annotate_assignment own
    SET expires_at = greatest(own.expires_at, asked.until), closed_at = NULL,
        is_on_top = own.is_on_top AND (asked.closed_at IS NULL OR asked.is_check)
    FROM asked LEFT JOIN again USING (uuid)
    WHERE own.uuid = asked.uuid
      AND (asked.closed_at IS NULL OR again.uuid IS NOT NULL OR (asked.is_check AND NOT asked.is_judged))
    RETURNING own.uuid
""",
)


def leases_keep(
    *, model_id: int, labeler_id: int, until: Sequence[tuple[UUID, datetime]]
) -> set[UUID]:
    """Prolong these leases of a labeler to at least these moments; return those that are held now."""
    rows = KEEP.rows(
        {
            "model": model_id,
            "labeler": labeler_id,
            "uuids": [uuid for uuid, _ in until],
            "untils": [moment for _, moment in until],
        }
    )
    return {uuid for (uuid,) in rows}


# --- What is known before a judgement is written ----------------------------------------------------------

#: All that recording or taking back depends on, without a lock: what is written afterwards checks that it is
#: still so. Other standing opinions come as two arrays, the earliest first.
FACTS = Statement(
    "judging_facts",
    """
    SELECT lease.labeler_id, lease.first_is_left, lease.expires_at, lease.closed_at, lease.is_on_top,
           pair.id AS pair_id, pair.purpose, pair.priority, pair.first_id, pair.second_id,
           pair.comparison_id, prompt.model_id,
           policy.guidelines_version, policy.updated_at AS policy_at, policy.lease_minutes,
           policy.overlap_most, policy.second_if_slight,
           policy.second_of_new, policy.audit_share,
           entry.wanted, entry.opinions,
           tally.id AS tally_id, tally.judged,
           last.id AS said, last.revision, last.verdict, last.judged_at,
           other.verdicts, other.winners, other.last_labeler,
           comparison.candidate_id, comparison.incumbent_id, prompt.sha256, prompt.tags,
           first.version_id AS first_version, cardinality(first.completion_ids) AS first_tokens,
           second.version_id AS second_version, cardinality(second.completion_ids) AS second_tokens,
           model.slug, EXISTS (
               SELECT FROM models_registry_membership
               WHERE model_id = model.id AND user_id = lease.labeler_id
           ) AS is_of_member
    FROM annotate_assignment lease
    JOIN annotate_pair pair ON pair.id = lease.pair_id
    JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id
    JOIN models_registry_registeredmodel model ON model.id = prompt.model_id
    LEFT JOIN annotate_judgingpolicy policy ON policy.model_id = prompt.model_id
    LEFT JOIN annotate_queueentry entry ON entry.pair_id = lease.pair_id
    LEFT JOIN annotate_tally tally
        ON tally.model_id = prompt.model_id AND tally.labeler_id = lease.labeler_id
    LEFT JOIN LATERAL (
        SELECT id, revision, verdict, judged_at FROM annotate_judgement
        WHERE assignment_id = lease.uuid ORDER BY revision DESC LIMIT 1
    ) last ON TRUE
    LEFT JOIN LATERAL (
        SELECT array_agg(said.verdict ORDER BY said.id) AS verdicts,
               array_agg(said.winner_id ORDER BY said.id) AS winners,
               (array_agg(their.labeler_id ORDER BY said.id DESC))[1] AS last_labeler
        FROM annotate_assignment their
        CROSS JOIN LATERAL (
            SELECT id, verdict, winner_id FROM annotate_judgement
            WHERE assignment_id = their.uuid ORDER BY revision DESC LIMIT 1
        ) said
        WHERE their.pair_id = lease.pair_id AND their.uuid <> lease.uuid AND said.verdict <> ''
    ) other ON TRUE
    LEFT JOIN (
        models_registry_comparison comparison
        JOIN annotate_pair compared ON compared.comparison_id = comparison.id
        JOIN annotate_completion first ON first.id = compared.first_id
        JOIN annotate_completion second ON second.id = compared.second_id
    ) ON compared.id = pair.id
    WHERE lease.uuid = %(uuid)s
""",
)


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison wants to know of one of its pairs."""

    candidate_id: int
    incumbent_id: int
    #: Of the prompt.
    sha256: str
    tags: list[str]
    #: Who wrote the pair's completions, and how many tokens they have; none of those without token ids.
    first_version: int
    first_tokens: int | None
    second_version: int
    second_tokens: int | None

    @property
    def first_is_candidate(self) -> bool:
        """Whether the candidate wrote the pair's first completion."""
        return self.first_version == self.candidate_id


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about an assignment before something is said about it, or taken back."""

    uuid: UUID
    labeler_id: int
    first_is_left: bool
    expires_at: datetime
    closed_at: datetime | None
    is_on_top: bool
    pair_id: int
    purpose: str
    priority: int
    first_id: int
    second_id: int
    comparison_id: int | None
    model_id: int
    slug: str
    #: Whether the labeler is still a member of the model.
    is_of_member: bool
    #: The policy's; None while the model has none.
    guidelines_version: int | None
    #: When anything in the policy changed last.
    policy_at: datetime | None
    lease_minutes: int | None
    rules: Rules | None
    #: The queue's; None when the pair is not in it.
    wanted: int | None
    opinions: int | None
    tally_id: int
    judged: int
    #: The labeler's latest revision, if there is one; an empty verdict took the one before back.
    said: int | None
    revision: int
    verdict: str
    judged_at: datetime | None
    #: Of other people about the same pair, the earliest first.
    others: tuple[Opinion, ...]
    #: Who the latest of them is.
    last_labeler: int | None
    #: Of a comparison's pair only.
    compared: Compared | None

    @property
    def guidelines_present(self) -> int:
        """The number of the guidelines that labelers have now."""
        return self.guidelines_version or DEFAULTS.guidelines_version

    @property
    def counts(self) -> bool:
        """Whether the lease is one of those that the queue counts."""
        return self.closed_at is None and not self.is_on_top


def facts_of(uuid: UUID) -> Facts:
    """Read what is known about an assignment. Raises Assignment.DoesNotExist."""
    row = next(iter(FACTS.named({"uuid": uuid})), None)
    if row is None:
        raise Assignment.DoesNotExist
    if row["tally_id"] is None:
        TALLY_CREATE.rows({"model": row["model_id"], "labeler": row["labeler_id"]})
        return facts_of(uuid)
    rules = {name: row.pop(name) for name in Rules.__slots__}
    compared = {name: row.pop(name) for name in Compared.__slots__}
    others = zip(row.pop("verdicts") or (), row.pop("winners") or (), strict=True)
    return Facts(
        uuid=uuid,
        rules=None if rules["overlap_most"] is None else Rules(**rules),
        compared=None if compared["candidate_id"] is None else Compared(**compared),
        revision=row.pop("revision") or 0,
        verdict=row.pop("verdict") or "",
        others=tuple(Opinion(verdict, winner) for verdict, winner in others),
        **row,
    )


# --- What is written ---------------------------------------------------------------------------------------

#: The first half of everything that is said: locks in the one order, checks that what was known is still so,
#: and appends the revision. When anything changed meanwhile, nothing at all is written.
_SAY = """
    WITH mine AS MATERIALIZED (
        SELECT id FROM annotate_tally WHERE id = %(tally)s FOR UPDATE
    ), lease AS MATERIALIZED (
        SELECT own.uuid FROM annotate_assignment own, mine
        WHERE own.uuid = %(uuid)s
          AND own.closed_at IS NOT DISTINCT FROM %(closed_at)s AND own.is_on_top = %(is_on_top)s
        FOR UPDATE OF own
    ), entry AS MATERIALIZED (
        SELECT queued.pair_id FROM annotate_queueentry queued, lease
        WHERE queued.pair_id = %(pair)s AND queued.wanted = %(seen_wanted)s AND queued.opinions = %(seen_opinions)s
        FOR UPDATE OF queued
    ), said AS (
        INSERT INTO annotate_judgement
            (assignment_id, revision, verdict, winner_id, reasons, note, active_ms, guidelines_version,
             is_late, judged_at, shown_at, input)
        SELECT uuid, %(revision)s::smallint, %(verdict)s::varchar, %(winner)s::bigint, %(reasons)s::varchar[],
               %(note)s::text, %(active_ms)s::int, %(guidelines_version)s::int, %(is_late)s::bool,
               %(judged_at)s::timestamptz, %(shown_at)s::timestamptz, %(input)s::varchar
        FROM lease WHERE %(seen_wanted)s IS NULL OR EXISTS (SELECT FROM entry)
        ON CONFLICT (assignment_id, revision) DO NOTHING
        RETURNING id
    )"""

#: A first judgement, or one after taking back: the lease ends, the entry has one opinion more.
CLOSE = Statement(
    "judging_close",
    f"""
    {_SAY}, closed AS (
        UPDATE annotate_assignment own
        SET closed_at = %(judged_at)s, is_on_top = NOT %(counts)s, set_aside_at = NULL
        FROM lease, said WHERE own.uuid = lease.uuid
    ), left_over AS (
        UPDATE annotate_queueentry queued
        SET wanted = %(wanted)s, leased = queued.leased - %(counts)s::int,
            opinions = queued.opinions + 1, last_labeler_id = %(labeler)s,
            -- Whoever it was kept for has judged it: further opinions are others' to give.
            reserved_for_id = NULL
        FROM entry, said WHERE queued.pair_id = entry.pair_id AND %(wanted)s > 0
    ), complete AS (
        DELETE FROM annotate_queueentry queued
        USING entry, said WHERE queued.pair_id = entry.pair_id AND %(wanted)s = 0
    )
    UPDATE annotate_tally tally
    SET judged = tally.judged + 1, day = %(day)s, since_repeat = tally.since_repeat + 1, turn = tally.turn + 1,
        today = CASE WHEN tally.day = %(day)s THEN tally.today + 1 ELSE 1 END
    FROM mine, said WHERE tally.id = mine.id
    RETURNING said.id, tally.today, tally.judged
""",  # noqa: S608
)

#: Another verdict in place of the one that stands: neither lease nor queue changes.
REVISE = Statement(
    "judging_revise",
    f"""
    {_SAY}
    UPDATE annotate_tally tally SET turn = tally.turn + 1
    FROM mine, said WHERE tally.id = mine.id
    RETURNING said.id, CASE WHEN tally.day = %(day)s THEN tally.today ELSE 0 END, tally.judged
""",  # noqa: S608
)

#: Takes back: the lease is open again, for its labeler only, with an entry of the queue even where the pair
#: had all its judgements. One on top of the queue's count stays on top.
REOPEN = Statement(
    "judging_reopen",
    f"""
    {_SAY}, opened AS (
        UPDATE annotate_assignment own SET closed_at = NULL, expires_at = %(until)s
        FROM lease, said WHERE own.uuid = lease.uuid
    ), queued AS (
        INSERT INTO annotate_queueentry AS queued
            (pair_id, model_id, priority, wanted, leased, opinions, last_labeler_id)
        SELECT %(pair)s, %(model)s::bigint, %(priority)s::int, 1, 1, %(others)s::smallint, %(last_labeler)s::int
        FROM said WHERE NOT %(is_on_top)s
        ON CONFLICT (pair_id) DO UPDATE
        -- A lease that was open all the same is counted already.
        SET wanted = queued.wanted + %(was_closed)s::bool::int, leased = queued.leased + %(was_closed)s::bool::int,
            opinions = EXCLUDED.opinions, last_labeler_id = EXCLUDED.last_labeler_id
    ), on_top AS (
        UPDATE annotate_queueentry queued SET opinions = %(others)s, last_labeler_id = %(last_labeler)s
        FROM said WHERE queued.pair_id = %(pair)s AND %(is_on_top)s
    )
    UPDATE annotate_tally tally
    SET judged = greatest(tally.judged - 1, 0), since_repeat = greatest(tally.since_repeat - 1, 0),
        turn = tally.turn + 1,
        today = CASE WHEN tally.day = %(day)s THEN greatest(tally.today - 1, 0) ELSE tally.today END
    FROM mine, said WHERE tally.id = mine.id
    RETURNING said.id, tally.today, tally.judged
""",  # noqa: S608
)


@dataclass(frozen=True, slots=True)
class Written:
    """A revision's id, and how much its labeler has judged with it."""

    said: int
    today: int
    in_all: int


def close(facts: Facts, judgement: Judgement, *, wanted: int, day: date) -> Written | None:
    """Append a judgement and end its lease; None when what was known is no longer so."""
    effect = {"counts": facts.counts, "wanted": wanted, "labeler": facts.labeler_id, "day": day}
    return _write(CLOSE, facts, judgement, effect)


def revise(facts: Facts, judgement: Judgement, *, day: date) -> Written | None:
    """Append a judgement in place of the one that stands; None when what was known is no longer so."""
    return _write(REVISE, facts, judgement, {"day": day})


def reopen(facts: Facts, judgement: Judgement, *, until: datetime, day: date) -> Written | None:
    """Append that a judgement made on that day is taken back; None when what was known is no longer so."""
    effect = {
        "until": until,
        "model": facts.model_id,
        "priority": facts.priority,
        "others": len(facts.others),
        "last_labeler": facts.last_labeler,
        "was_closed": facts.closed_at is not None,
        "day": day,
    }
    return _write(REOPEN, facts, judgement, effect)


def _write(
    statement: Statement, facts: Facts, judgement: Judgement, effect: dict[str, Any]
) -> Written | None:
    known: dict[str, Any] = {
        "tally": facts.tally_id,
        "uuid": facts.uuid,
        "closed_at": facts.closed_at,
        "is_on_top": facts.is_on_top,
        "pair": facts.pair_id,
        "seen_wanted": facts.wanted,
        "seen_opinions": facts.opinions,
    }
    words = {
        name: getattr(judgement, name)
        for name in (
            "revision", "verdict", "reasons", "note", "active_ms", "guidelines_version", "is_late",
            "judged_at", "shown_at", "input",
        )
    }  # fmt: skip
    row = statement.row(known | words | {"winner": judgement.winner_id} | effect)
    return Written(*row) if row else None


#: A lease that was opened on a pair its labeler has judged: the queue had lost count, so it learns of it.
GIVE_BACK_JUDGED = Statement(
    "judging_give_back",
    """
    WITH closed AS (
        UPDATE annotate_assignment SET closed_at = %(now)s
        WHERE uuid = %(uuid)s AND closed_at IS NULL RETURNING pair_id, labeler_id, is_on_top
    )
    UPDATE annotate_queueentry entry
    SET leased = greatest(entry.leased - 1, 0), opinions = greatest(entry.opinions, 1),
        last_labeler_id = closed.labeler_id
    FROM closed WHERE entry.pair_id = closed.pair_id AND NOT closed.is_on_top
""",
)


def judged_lease_end(uuid: UUID, *, now: datetime) -> None:
    """End an open lease on a pair that its labeler's judgement stands on."""
    GIVE_BACK_JUDGED.rows({"uuid": uuid, "now": now})


def held_of(desk: Desk, *, have: Collection[UUID], now: datetime) -> list[Lease]:
    """Return the leases to show again: taken back ones first, the latest before earlier ones, set-aside ones last."""
    running = [lease for lease in desk.leases if lease.expires_at > now and lease.uuid not in have]
    return sorted(running, key=_urgency)


def _urgency(lease: Lease) -> tuple[Any, ...]:
    aside = lease.set_aside_at.timestamp() if lease.set_aside_at else 0.0
    return (aside, -(lease.said or 0), lease.assigned_at, lease.uuid)
