"""A labeler's own numbers: how much, how long, how steadily. They rank nobody and count nothing down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from django.utils.safestring import SafeString

from annotate import quality
from annotate import queries as judging
from models_registry.models import RegisteredModel
from pairloop.lib.charts import bars
from pairloop.pages.history_queries import midnight

#: Days that hours are told of, today among them.
DAYS = 14

#: Time and judgements by day; time as `active_ms_of` counts it. What was changed lately may have been judged long
#: ago, hence the second branch.
_DAYS = """
    WITH mine AS (
        SELECT assignment.uuid FROM annotate_assignment assignment
        JOIN annotate_pair pair ON pair.id = assignment.pair_id
        JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id AND prompt.model_id = %(model)s
        WHERE assignment.labeler_id = %(labeler)s
              AND (assignment.closed_at >= %(since)s OR assignment.closed_at IS NULL)
        UNION
        SELECT assignment.uuid FROM annotate_judgement changed
        JOIN annotate_assignment assignment ON assignment.uuid = changed.assignment_id
        JOIN annotate_pair pair ON pair.id = assignment.pair_id
        JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id AND prompt.model_id = %(model)s
        WHERE assignment.labeler_id = %(labeler)s
              AND changed.revision > 1 AND changed.judged_at >= %(since)s
    ), said AS (
        SELECT judgement.assignment_id, judgement.judged_at, judgement.active_ms,
               lag(judgement.active_ms, 1, 0) OVER (
                   PARTITION BY judgement.assignment_id ORDER BY judgement.revision
               ) AS before
        FROM annotate_judgement judgement JOIN mine ON mine.uuid = judgement.assignment_id
        WHERE judgement.verdict <> ''
    )
    SELECT (judged_at AT TIME ZONE %(zone)s)::date,
           count(DISTINCT assignment_id),
           sum(CASE WHEN active_ms >= before THEN active_ms - before ELSE active_ms END)
    FROM said WHERE judged_at >= %(since)s GROUP BY 1
"""
_MEDIAN = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY judgement.active_ms)
    FROM annotate_assignment assignment
    JOIN annotate_pair pair ON pair.id = assignment.pair_id
    JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id AND prompt.model_id = %(model)s
    JOIN annotate_judgement judgement ON judgement.assignment_id = assignment.uuid AND judgement.revision = 1
    WHERE assignment.labeler_id = %(labeler)s AND assignment.closed_at >= %(since)s AND judgement.active_ms > 0
"""


@dataclass(frozen=True, slots=True)
class Day:
    """One day's work."""

    day: date
    judged: int
    active_ms: int


@dataclass(frozen=True, slots=True)
class Share:
    """A share of cases with its interval."""

    value: float
    low: float
    high: float
    cases: int

    @property
    def words(self) -> str:
        """It with its interval, in percent."""
        return f"{self.value:.0%} [{100 * self.low:.0f}, {100 * self.high:.0f}]"


@dataclass(frozen=True, slots=True)
class Numbers:
    """One labeler's own numbers of one model."""

    today: int
    in_all: int
    #: The newest first, also those without work.
    days: tuple[Day, ...]
    #: Milliseconds; None without any.
    median_ms: int | None
    #: On closed pairs that others judged, too; None for too few.
    agreement: Share | None
    #: On pairs that came again; None for too few.
    consistency: Share | None

    @property
    def active_ms(self) -> int:
        """Of all these days."""
        return sum(day.active_ms for day in self.days)

    @property
    def judged(self) -> int:
        """In all these days."""
        return sum(day.judged for day in self.days)

    @property
    def bars(self) -> SafeString:
        """Minutes of each day, the oldest first; the table says the same."""
        days = self.days[::-1]
        return bars(
            [str(day.day.day) for day in days],
            [day.active_ms / 60_000 for day in days],
            label=f"Active minutes of each day since {days[0].day:%-d %B}",
            text=lambda minutes: f"{minutes:.0f}",
        )


def numbers_of(*, model: RegisteredModel, labeler: User) -> Numbers:
    """Count what somebody did for a model. Seven queries, which look at the last days or pairs only."""
    progress = judging.judging_progress(model=model, labeler=labeler, since=midnight())
    return Numbers(
        today=progress.today,
        in_all=progress.in_all,
        days=_days(model, labeler),
        median_ms=_median(model, labeler),
        agreement=_share(quality.agreement_of(labeler, model)),
        consistency=_share(quality.consistency_of(labeler, model)),
    )


def _days(model: RegisteredModel, labeler: User) -> tuple[Day, ...]:
    parameters = _parameters(model, labeler) | {"zone": timezone.get_current_timezone_name()}
    with connection.cursor() as cursor:
        cursor.execute(_DAYS, parameters)
        found = {row[0]: Day(row[0], row[1], int(row[2])) for row in cursor.fetchall()}
    today = timezone.localdate()
    days = [today - timedelta(days=back) for back in range(DAYS)]
    return tuple(found.get(day, Day(day, 0, 0)) for day in days)


def _median(model: RegisteredModel, labeler: User) -> int | None:
    with connection.cursor() as cursor:
        cursor.execute(_MEDIAN, _parameters(model, labeler))
        median = cursor.fetchone()[0]
    return None if median is None else round(median)


def _parameters(model: RegisteredModel, labeler: User) -> dict[str, int | datetime | str]:
    since = midnight(days_ago=DAYS - 1)
    return {"model": model.pk, "labeler": labeler.pk, "since": since}


def _share(own: quality.Own | None) -> Share | None:
    return Share(*own) if own else None
