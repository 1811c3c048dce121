"""How well a model's labelers judge, from a bounded number of their newest judgements.

What is read does not grow with the pairs or judgements stored. Gold pairs and repeats are left out wherever
labelers are compared with each other: somebody chose them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from statistics import median
from typing import Any, NamedTuple

from django.contrib.auth.models import User
from django.db import connection
from django.db.models import F, OuterRef, Subquery, Sum
from django.utils import timezone

from annotate import queries
from annotate.models import DECIDED, Assignment, Gold, Judgement, Pair, Repeat, Tally, Verdict
from models_registry.models import RegisteredModel
from models_registry.stats import agreement
from models_registry.stats.agreement import Agreement, Rating, Share

#: Judgements of a report, and the revisions of all models among which they are looked for.
MOST_JUDGEMENTS = 20_000
MOST_REVISIONS = 100_000
#: Repeats and judgements of gold pairs; they are rare, so they are counted over all time.
MOST_CHECKED = 5_000
#: Of one labeler, for their own pages.
MOST_OF_LABELER = 2_000
#: Below so many judgements, a labeler's numbers say more about chance.
LEAST_JUDGEMENTS = 30
#: Below so many, one labeler's own shares are not shown to them.
LEAST_OWN = 10
#: Quicker than this nobody has read two answers of together so many bytes.
FAST_MS = 2_000
LONG = 1_200

#: How much better the preferred answer is, from slightly to much.
SIZES: dict[str, int] = {"left_much": 2, "left": 1, "right": 1, "right_much": 2}
LEFT = ("left_much", "left")
#: What can be said of two answers without preferring one. Plain text, since a report looks it up so often.
ALIKE = frozenset({Verdict.TIE.value, Verdict.BOTH_BAD.value})
CHECKS = frozenset({Pair.Purpose.GOLD.value, Pair.Purpose.REPEAT.value})
#: How far "both bad" is from a preference, on the scale of much and slightly.
APART_BAD = 2


def outcome_of(verdict: str, *, winner: int | None, first: int) -> str:
    """Return what a verdict says about the completions, whichever side they were on: "" for nothing."""
    if verdict in SIZES:
        return "first" if winner == first else "second"
    return verdict if verdict in ALIKE else ""


def strength_of(verdict: str, *, winner: int | None, first: int) -> int | None:
    """Return how much better the first completion is, from -2 to 2; None where nothing is compared."""
    if verdict in SIZES:
        return SIZES[verdict] if winner == first else -SIZES[verdict]
    return 0 if verdict == "tie" else None


class Said(NamedTuple):
    """A standing judgement, as a report needs it; a tuple, since there are many."""

    pair: int
    labeler: int
    purpose: str
    verdict: str
    winner: int | None
    active_ms: int
    #: When it was judged, where the server is.
    day: date
    first: int
    #: Bytes of both answers, which the database knows without reading them.
    size: int
    #: The number of the version that wrote the first answer; None when no version did.
    version: int | None

    @property
    def is_check(self) -> bool:
        """Whether it is about a gold pair or a repeat."""
        return self.purpose in CHECKS

    @property
    def outcome(self) -> str:
        """What it says about the completions."""
        return outcome_of(self.verdict, winner=self.winner, first=self.first)

    @property
    def strength(self) -> int | None:
        """How much better the first completion is."""
        return strength_of(self.verdict, winner=self.winner, first=self.first)

    @property
    def is_long(self) -> bool:
        """Whether there was much to read."""
        return self.size > LONG and self.active_ms > 0

    @property
    def is_fast(self) -> bool:
        """Whether it came quicker than one can read."""
        return self.is_long and self.active_ms < FAST_MS


#: Every join is a look-up by a primary key for one row of the newest ones: OFFSET 0 keeps the planner from
#: reading whole tables instead, which it would with a million pairs.
SAID = """
    SELECT pair.id, lease.labeler_id, pair.purpose, newest.verdict, newest.winner_id,
           newest.active_ms, (newest.judged_at AT TIME ZONE %(zone)s)::date, pair.first_id, pair.second_id
    FROM (
        SELECT id, assignment_id, revision, verdict, winner_id, active_ms, judged_at FROM annotate_judgement
        WHERE id > (SELECT max(id) FROM annotate_judgement) - %(revisions)s
          AND judged_at >= %(since)s AND verdict <> ''
        ORDER BY id DESC
    ) newest
    CROSS JOIN LATERAL (
        SELECT pair_id, labeler_id FROM annotate_assignment
        WHERE uuid = newest.assignment_id OFFSET 0
    ) lease
    CROSS JOIN LATERAL (
        SELECT id, prompt_id, purpose, first_id, second_id FROM annotate_pair
        WHERE id = lease.pair_id OFFSET 0
    ) pair
    CROSS JOIN LATERAL (SELECT model_id FROM annotate_prompt WHERE id = pair.prompt_id OFFSET 0) prompt
    CROSS JOIN LATERAL (
        SELECT revision FROM annotate_judgement
        WHERE assignment_id = newest.assignment_id ORDER BY revision DESC LIMIT 1
    ) last
    WHERE prompt.model_id = %(model)s AND last.revision = newest.revision
    ORDER BY newest.id DESC LIMIT %(most)s
"""
#: All at once: answers to one prompt are neighbours in the index, so this costs a tenth of looking up each.
ANSWERS = """
    SELECT answer.id, octet_length(answer.text), version.number
    FROM annotate_completion answer
    LEFT JOIN models_registry_modelversion version ON version.id = answer.version_id
    WHERE answer.id = ANY(%(ids)s)
"""


def said_lately(model: RegisteredModel, *, since: datetime) -> list[Said]:
    """Return a model's standing judgements since a moment, the newest first; at most MOST_JUDGEMENTS. Two queries.

    They are looked for among the newest revisions of all models, so that little is read however many there are.
    """
    bounds: dict[str, Any] = {"since": since, "revisions": MOST_REVISIONS, "most": MOST_JUDGEMENTS}
    where = {"model": model.pk, "zone": timezone.get_current_timezone_name()}
    with connection.cursor() as cursor:
        cursor.execute(SAID, bounds | where)
        rows = cursor.fetchall()
        ids = {answer for *_, first, second in rows for answer in (first, second)}
        cursor.execute(ANSWERS, {"ids": sorted(ids)})
        answers = {pk: (size, version) for pk, size, version in cursor.fetchall()}
    found = []
    for *said, first, second in rows:
        size, version = answers[first]
        found.append(Said._make((*said, first, size + answers[second][0], version)))
    return found


@dataclass(frozen=True, slots=True)
class Twice:
    """What somebody said about a pair, and about the same pair later with its sides swapped."""

    labeler: int
    before: str
    after: str
    #: Whether both times the same side won: then it was the side, not the answer.
    is_flip: bool
    #: Whether both times one was preferred; only then can the side decide.
    is_decided: bool


def twice_of(model: RegisteredModel, *, labeler: User | None = None) -> list[Twice]:
    """Return the newest judged repeats of a model, of everybody or of one labeler. One query."""
    rows = _repeats(model, labeler).order_by("-made_at")[:MOST_CHECKED]
    found = []
    for labeler_id, first, before, winner_before, after, winner_after in rows.values_list(
        "assignment__labeler", "assignment__pair__first",
        "before", "winner_before", "after", "winner_after",
    ):  # fmt: skip
        if not before or not after:
            continue
        is_decided = before in DECIDED and after in DECIDED
        found.append(
            Twice(
                labeler=labeler_id,
                before=outcome_of(before, winner=winner_before, first=first),
                after=outcome_of(after, winner=winner_after, first=first),
                # The sides are swapped, so another winner is the same side.
                is_flip=is_decided and winner_before != winner_after,
                is_decided=is_decided,
            )
        )
    return found


def _repeats(model: RegisteredModel, labeler: User | None) -> Any:
    def last(assignment: str, column: str) -> Subquery:
        revisions = Judgement.objects.filter(assignment=OuterRef(assignment)).order_by("-revision")
        return Subquery(revisions.values(column)[:1])

    repeats = Repeat.objects.filter(model=model)
    if labeler:
        repeats = repeats.filter(assignment__labeler=labeler)
    return repeats.annotate(
        before=last("original", "verdict"),
        winner_before=last("original", "winner"),
        after=last("assignment", "verdict"),
        winner_after=last("assignment", "winner"),
    )


def gold_said(model: RegisteredModel) -> list[tuple[int, int, bool]]:
    """Return gold pair, labeler and "as expected" of the newest judgements of gold pairs. One query."""
    rows = (
        queries.judgements_standing()
        .filter(assignment__pair__gold__model=model)
        .order_by("-pk")
        .values_list(
            "assignment__pair", "assignment__labeler", "winner", "assignment__pair__gold__expected"
        )[:MOST_CHECKED]
    )
    return [(pair, labeler, winner == expected) for pair, labeler, winner, expected in rows]


# --- The report ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelerQuality:
    """One labeler's numbers in a report. Shares are None below LEAST_JUDGEMENTS of what they are about."""

    labeler: User
    judged: int
    today: int
    #: Seconds of active reading; None when no browser measured any.
    median_s: float | None
    #: Of the decided judgements, how often the left side won.
    left: Share | None
    tie: Share | None
    both_bad: Share | None
    #: Said the same when a pair came again.
    consistency: Share | None
    #: The same side won both times.
    flips: Share | None
    gold: Share | None
    #: With others on the same pairs.
    agreement: Share | None
    #: Of those on long texts, decided quicker than one can read.
    fast: Share | None

    @property
    def has_numbers(self) -> bool:
        """Whether there are judgements enough to show any share."""
        return self.judged >= LEAST_JUDGEMENTS

    @property
    def shares(self) -> list[Share | None]:
        """The shares beside the one of the left side, in the order of the page's columns."""
        return [
            self.tie, self.both_bad, self.agreement, self.consistency, self.flips, self.gold, self.fast,
        ]  # fmt: skip

    @property
    def side_word(self) -> str:
        """Which side they prefer beyond chance, if any."""
        if self.left is None or not self.left.excludes(0.5):
            return ""
        return "more left" if self.left.value > 0.5 else "more right"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A pair about which labelers said different things."""

    pair: int
    #: From 1, neighbours, to 4, the opposite with much on both sides.
    distance: int
    judgements: int


@dataclass(frozen=True)
class Report:
    """What a model's newest judgements say about how they were made."""

    said: Sequence[Said]
    twice: Sequence[Twice]
    gold: Sequence[tuple[int, int, bool]]
    labelers: Mapping[int, User]
    since: datetime
    today: date

    @property
    def is_cut(self) -> bool:
        """Whether there are more judgements in this time than are looked at."""
        return len(self.said) >= MOST_JUDGEMENTS

    @cached_property
    def shared(self) -> dict[int, list[Said]]:
        """What was said about each pair that several judged: no checks, and only what says something."""
        by_pair: dict[int, list[Said]] = defaultdict(list)
        for one in self.said:
            if one.outcome and not one.is_check:
                by_pair[one.pair].append(one)
        return {pair: said for pair, said in by_pair.items() if len(said) > 1}

    @cached_property
    def outcomes(self) -> list[Rating]:
        """The same, as what it says about the completions."""
        return [
            (one.pair, one.labeler, one.outcome) for said in self.shared.values() for one in said
        ]

    @cached_property
    def nominal(self) -> Agreement:
        """Alpha on which of the two, tie or both bad."""
        return agreement.alpha_nominal(self.outcomes)

    @cached_property
    def ordinal(self) -> Agreement:
        """Alpha on how much better the first is, from -2 to 2."""
        return agreement.alpha_ordinal(
            (one.pair, one.labeler, strength)
            for said in self.shared.values()
            for one in said
            if (strength := one.strength) is not None
        )

    @cached_property
    def raw(self) -> Agreement:
        """How probably two labelers say the same."""
        return agreement.raw_agreement(self.outcomes)

    @cached_property
    def left(self) -> Share | None:
        """How often the left side won, of all decided judgements."""
        return _left(self.verdicts)

    @cached_property
    def consistency(self) -> Share | None:
        """How often the same was said when a pair came again."""
        return agreement.consistency([(one.before, one.after) for one in self.twice])

    @cached_property
    def flips(self) -> Share | None:
        """How often the same side won both times."""
        return _flips(self.twice)

    @cached_property
    def gold_share(self) -> Share | None:
        """How often gold pairs were judged as expected."""
        return agreement.share(sum(is_right for *_, is_right in self.gold), len(self.gold))

    @cached_property
    def by_day(self) -> list[tuple[date, int]]:
        """Judgements of each day from the first one to the last one."""
        days = Counter(one.day for one in self.said)
        if not days:
            return []
        first, last = min(days), max(days)
        span = (last - first).days + 1
        return [(day, days[day]) for day in (first + timedelta(days=n) for n in range(span))]

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """How often each verdict was given."""
        return dict(Counter(one.verdict for one in self.said))

    @cached_property
    def versions(self) -> list[tuple[int | None, int]]:
        """Judgements of pairs to train on, by the version that wrote them, the newest first; then imports."""
        counts = Counter(one.version for one in self.said if one.purpose == Pair.Purpose.TRAIN)
        return sorted(counts.items(), key=lambda row: -1 if row[0] is None else row[0])[::-1]

    @cached_property
    def people(self) -> list[LabelerQuality]:
        """Every labeler's numbers, by name: nobody is ranked."""
        return _people(self)

    @cached_property
    def disagreements(self) -> list[Disagreement]:
        """The pairs on which labelers disagree, the farthest apart first, then the newest."""
        found = [
            Disagreement(pair, distance, len(said))
            for pair, said in self.shared.items()
            if (distance := _distance(said))
        ]
        return sorted(found, key=lambda one: (-one.distance, -one.pair))


def report_of(model: RegisteredModel, *, since: datetime, now: datetime) -> Report:
    """Read and return a model's report on the judgements since a moment. Five queries, whatever there is."""
    said = said_lately(model, since=since)
    twice, gold = twice_of(model), gold_said(model)
    ids = {one.labeler for one in said}
    return Report(
        said=said,
        twice=twice,
        gold=gold,
        labelers=User.objects.in_bulk(ids),
        since=since,
        today=timezone.localdate(now),
    )


def _distance(said: Sequence[Said]) -> int:
    strengths = [strength for one in said if (strength := one.strength) is not None]
    apart = max(strengths) - min(strengths) if strengths else 0
    # Some found both bad, and others did not.
    if 0 < len(strengths) < len(said):
        apart = max(apart, APART_BAD)
    return apart


def _flips(twice: Sequence[Twice]) -> Share | None:
    decided = [one for one in twice if one.is_decided]
    return agreement.share(sum(one.is_flip for one in decided), len(decided))


def _left(verdicts: Mapping[str, int]) -> Share | None:
    left = sum(verdicts.get(verdict, 0) for verdict in LEFT)
    return agreement.share(left, sum(verdicts.get(verdict, 0) for verdict in SIZES))


def _people(report: Report) -> list[LabelerQuality]:
    said: dict[int, list[Said]] = defaultdict(list)
    for one in report.said:
        said[one.labeler].append(one)
    others = agreement.agreement_with_others(report.outcomes)
    found = [
        _labeler_quality(report, report.labelers[pk], mine, others.get(pk))
        for pk, mine in said.items()
    ]
    return sorted(found, key=lambda one: one.labeler.get_username().lower())


def _labeler_quality(
    report: Report, labeler: User, said: Sequence[Said], others: Share | None
) -> LabelerQuality:
    long_ones = [one.is_fast for one in said if one.is_long]
    times = [one.active_ms for one in said if one.active_ms]
    twice = [one for one in report.twice if one.labeler == labeler.pk]
    gold = [is_right for _, by, is_right in report.gold if by == labeler.pk]
    verdicts = Counter(one.verdict for one in said)
    shares = {
        "left": _left(verdicts),
        "tie": agreement.share(verdicts[Verdict.TIE], len(said)),
        "both_bad": agreement.share(verdicts[Verdict.BOTH_BAD], len(said)),
        "consistency": agreement.consistency([(one.before, one.after) for one in twice]),
        "flips": _flips(twice),
        "gold": agreement.share(sum(gold), len(gold)),
        "agreement": others,
        "fast": agreement.share(sum(long_ones), len(long_ones)),
    }
    # Repeats and gold pairs are rare: their own n is beside them, and the interval says the rest.
    is_shown = len(said) >= LEAST_JUDGEMENTS
    return LabelerQuality(
        labeler=labeler,
        judged=len(said),
        today=sum(one.day >= report.today for one in said),
        median_s=median(times) / 1000 if times else None,
        **{name: one if is_shown else None for name, one in shares.items()},
    )


# --- One labeler ---------------------------------------------------------------------------------------

#: Value, lower and upper end of the 95 % interval, and of how many.
Own = tuple[float, float, float, int]


def consistency_of(labeler: User, model: RegisteredModel) -> Own | None:
    """Return how often a labeler said the same about a pair that came again; None below LEAST_OWN. One query."""
    twice = twice_of(model, labeler=labeler)
    return _own(agreement.consistency([(one.before, one.after) for one in twice]))


#: As above, look-ups only: of a labeler's newest pairs, what everybody said.
SHARED = """
    SELECT pair.id, theirs.labeler_id, last.verdict, last.winner_id, pair.first_id
    FROM (
        SELECT pair_id FROM annotate_assignment
        WHERE labeler_id = %(labeler)s AND closed_at IS NOT NULL ORDER BY closed_at DESC LIMIT %(most)s
    ) mine
    CROSS JOIN LATERAL (
        SELECT id, prompt_id, purpose, first_id FROM annotate_pair WHERE id = mine.pair_id OFFSET 0
    ) pair
    CROSS JOIN LATERAL (SELECT model_id FROM annotate_prompt WHERE id = pair.prompt_id OFFSET 0) prompt
    CROSS JOIN LATERAL (
        SELECT uuid, labeler_id FROM annotate_assignment WHERE pair_id = pair.id OFFSET 0
    ) theirs
    CROSS JOIN LATERAL (
        SELECT verdict, winner_id FROM annotate_judgement
        WHERE assignment_id = theirs.uuid ORDER BY revision DESC LIMIT 1
    ) last
    WHERE prompt.model_id = %(model)s AND pair.purpose NOT IN ('gold', 'repeat')
          -- Earlier it would tell what others said to whom may still change their mind.
          AND NOT EXISTS (SELECT FROM annotate_queueentry entry WHERE entry.pair_id = pair.id)
"""


def agreement_of(labeler: User, model: RegisteredModel) -> Own | None:
    """Return how often others said what a labeler said about the same pair; None below LEAST_OWN. One query.

    Of the labeler's newest assignments, without checks, and only where nobody is asked about the pair any more.
    """
    with connection.cursor() as cursor:
        cursor.execute(SHARED, {"labeler": labeler.pk, "model": model.pk, "most": MOST_OF_LABELER})
        rows = cursor.fetchall()
    said = [
        (pair, by, outcome)
        for pair, by, verdict, winner, first in rows
        if (outcome := outcome_of(verdict, winner=winner, first=first))
    ]
    return _own(agreement.agreement_with_others(said).get(labeler.pk))


def _own(share: Share | None) -> Own | None:
    if share is None or share.n < LEAST_OWN:
        return None
    return share.value, share.low, share.high, share.n


def judged_in_all(model: RegisteredModel) -> int:
    """Return how many judgements of a model stand, as the labelers' tallies have it. One query."""
    return Tally.objects.filter(model=model).aggregate(n=Sum("judged"))["n"] or 0


# --- What staff looks after ----------------------------------------------------------------------------


def leases_open(model: RegisteredModel, *, limit: int) -> list[Assignment]:
    """Return the pairs of a model that are leased just now, by labeler, the oldest first. One query."""
    return list(
        Assignment.objects.filter(closed_at=None, pair__prompt__model=model)
        .select_related("labeler")
        .order_by("labeler__username", "assigned_at", "uuid")[:limit]
    )


@dataclass(frozen=True, slots=True)
class GoldRow:
    """A gold pair that is served, and how it was judged."""

    gold: Gold
    right: int
    judged: int

    @property
    def letter(self) -> str:
        """Which answer is expected, by its letter on a pair's page."""
        return "A" if self.gold.expected_id == self.gold.pair.first_id else "B"


def gold_rows(
    model: RegisteredModel, said: Iterable[tuple[int, int, bool]], *, limit: int
) -> list[GoldRow]:
    """Return a model's gold pairs, the newest first; those that are served before retired ones. One query."""
    right: Counter[int] = Counter()
    judged: Counter[int] = Counter()
    for pair, _, is_right in said:
        judged[pair] += 1
        right[pair] += is_right
    rows = (
        Gold.objects.filter(model=model)
        .select_related("pair__prompt", "made_by")
        .order_by(F("retired_at").desc(nulls_first=True), "-pair")[:limit]
    )
    return [GoldRow(one, right[one.pk], judged[one.pk]) for one in rows]
