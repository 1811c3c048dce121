"""What the page about a model's judgements reads: how labelers judge, where they differ, what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise

from annotate import flags, quality, queries
from annotate.models import Assignment, Flag, Judgement, Pair, Verdict
from annotate.quality import GoldRow, Report
from models_registry.models import RegisteredModel
from models_registry.stats.agreement import Agreement
from pairloop.lib import charts
from pairloop.pages.history_queries import WHY

#: Days that the page looks back, as its address may say.
DAYS = (7, 30, 90)
#: Disagreements on one page.
STEP = 10
MOST_LEASES = 200
MOST_FLAGS = 50
MOST_RESOLVED = 10
MOST_GOLD = 100
#: With more days than this, the chart shows weeks.
MOST_DAYS_DRAWN = 31

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

#: Krippendorff 2004, "Content Analysis", 11.4.4: rely on what is at least .8; from .667, conclude tentatively.
RELIABLE, TENTATIVE = 0.8, 0.667


@dataclass(frozen=True, slots=True)
class AgreementShown:
    """A number about agreement and what it means."""

    title: str
    about: str
    found: Agreement
    is_share: bool = False

    @property
    def figure(self) -> str:
        """The number; a dash where it is undefined."""
        value = self.found.value
        if value is None:
            return DASH
        return f"{value:.0%}" if self.is_share else f"{value:.2f}"

    @property
    def interval(self) -> str:
        """Between which values it may truly be."""
        low, high = self.found.low, self.found.high
        if low is None or high is None:
            return ""
        return f"{low:.0%} to {high:.0%}" if self.is_share else f"{low:.2f} to {high:.2f}"

    @property
    def words(self) -> str:
        """What the number says, or why there is none."""
        value = self.found.value
        if value is None:
            return self.found.why
        return _share_words(value) if self.is_share else _alpha_words(value)


def _alpha_words(alpha: float) -> str:
    if alpha >= RELIABLE:
        return "Labelers judge alike: one can rely on single judgements."
    if alpha >= TENTATIVE:
        return "Good enough for tentative conclusions."
    if alpha > 0.2:
        return "Labelers often differ. Part of that is taste; clearer guidelines take care of the rest."
    if alpha > 0:
        return "A little more than chance. Read the pairs below before you trust single judgements."
    return "No better than chance. Read the pairs below, and the guidelines."


def _share_words(share: float) -> str:
    return f"Two labelers say the same about a pair {share:.0%} of the time, chance included."


def agreements_of(report: Report) -> list[AgreementShown]:
    """Return the three numbers about agreement."""
    return [
        AgreementShown(
            "Alpha, nominal",
            "Krippendorff's alpha on which answer is better, tie or both bad: 1 is perfect, 0 is chance.",
            report.nominal,
        ),
        AgreementShown(
            "Alpha, ordinal",
            f"The same on how much better, from {MINUS}2 to 2: slightly against much counts little, opposites much.",
            report.ordinal,
        ),
        AgreementShown(
            "Raw agreement", "Of all two judgements on one pair.", report.raw, is_share=True
        ),
    ]


def work_of(report: Report) -> charts.Trend | None:
    """Return the chart of judgements by day, or by week where there are many days; None without any."""
    days = report.by_day
    if not days:
        return None
    unit = "day"
    if len(days) > MOST_DAYS_DRAWN:
        days, unit = _weeks(days), "week from"
    names = tuple(f"{day:%-d %b}" for day, _ in days)
    parents = {after: before for before, after in pairwise(names)}
    return charts.Trend(
        title=f"Judgements, by {unit}",
        hint="Also those of gold pairs and repeats.",
        names=names,
        marks=tuple(
            charts.Mark(name, count, parent=parents.get(name, ""))
            for name, (_, count) in zip(names, days, strict=True)
        ),
        text=lambda value: f"{value:.0f}",
    )


def _weeks(days: Sequence[tuple[date, int]]) -> list[tuple[date, int]]:
    weeks: dict[date, int] = {}
    for day, count in days:
        monday = day - timedelta(days=day.weekday())
        weeks[monday] = weeks.get(monday, 0) + count
    return list(weeks.items())


@dataclass(frozen=True, slots=True)
class Row:
    """How many judgements are of one kind, and their share."""

    name: str
    count: int
    share: float


def verdicts_of(report: Report) -> list[Row]:
    """Return how often each verdict was given."""
    total = len(report.said) or 1
    return [
        Row(verdict.label, count, count / total)
        for verdict in Verdict
        if (count := report.verdicts.get(verdict.value, 0))
    ]


def versions_of(report: Report) -> list[Row]:
    """Return who wrote the pairs to train on that were judged, the newest version first."""
    total = sum(count for _, count in report.versions) or 1
    return [
        Row("Imported or edited" if number is None else f"v{number}", count, count / total)
        for number, count in report.versions
    ]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What somebody said about a pair, by its answers A and B."""

    judgement: Judgement
    said: str

    @property
    def labeler(self) -> str:
        """Who it was."""
        return self.judgement.assignment.labeler.get_username()

    @property
    def reasons(self) -> list[str]:
        """Why, in words."""
        return [WHY.get(reason, reason) for reason in self.judgement.reasons]


@dataclass(frozen=True, slots=True)
class Disputed:
    """A pair about which labelers disagree, with all that they said."""

    pair: Pair
    distance: int
    opinions: list[Opinion]
    has_gold: bool

    @property
    def title(self) -> str:
        """How far apart they are."""
        return DISTANCES.get(self.distance, DISTANCES[1])


DISTANCES = {
    4: "Opposites, both sure",
    3: "Opposites, one of them sure",
    2: "Two steps apart",
    1: "One step apart",
}


def opinion_words(judgement: Judgement, pair: Pair) -> str:
    """Say which answer a judgement prefers, by its letter."""
    if judgement.winner_id is None:
        return Verdict(judgement.verdict).label
    letter = "A" if judgement.winner_id == pair.first_id else "B"
    is_much = judgement.verdict in {Verdict.LEFT_MUCH, Verdict.RIGHT_MUCH}
    return f"{letter} is {'much' if is_much else 'slightly'} better"


def disputed_of(report: Report, *, start: int) -> list[Disputed]:
    """Return some of the pairs on which labelers disagree, the strongest first. Two queries."""
    chosen = report.disagreements[start : start + STEP]
    pairs = Pair.objects.select_related(
        "prompt", "first__version", "second__version", "gold_copy"
    ).in_bulk([one.pair for one in chosen])
    judgements = queries.judgements_on(list(pairs.values()))
    return [
        Disputed(
            pair=pairs[one.pair],
            distance=one.distance,
            opinions=[
                Opinion(judgement, opinion_words(judgement, pairs[one.pair]))
                for judgement in judgements.get(one.pair, [])
            ],
            has_gold=_has_gold(pairs[one.pair]),
        )
        for one in chosen
    ]


def _has_gold(pair: Pair) -> bool:
    gold = getattr(pair, "gold_copy", None)
    return gold is not None and gold.retired_at is None


@dataclass(frozen=True, slots=True)
class Holder:
    """A labeler and the pairs that they hold."""

    pk: int
    name: str
    leases: list[Assignment]


def holders_of(model: RegisteredModel) -> list[Holder]:
    """Return who holds which pairs just now, by name. One query."""
    holders: dict[int, Holder] = {}
    for lease in quality.leases_open(model, limit=MOST_LEASES):
        holder = holders.setdefault(
            lease.labeler_id, Holder(lease.labeler_id, lease.labeler.get_username(), [])
        )
        holder.leases.append(lease)
    return list(holders.values())


@dataclass(frozen=True, slots=True)
class Quality:
    """Everything on the page of a model."""

    report: Report
    #: Standing judgements of all time.
    in_all: int
    holders: list[Holder]
    flags: list[Flag]
    resolved: list[Flag]
    gold: list[GoldRow]
    disputed: list[Disputed]
    #: Of the disagreements, counted from 1.
    first: int

    @property
    def last(self) -> int:
        """The number of the last one that is shown."""
        return self.first + len(self.disputed) - 1

    @property
    def leases(self) -> int:
        """How many pairs are held."""
        return sum(len(holder.leases) for holder in self.holders)


def quality_of(
    model: RegisteredModel, *, since: datetime, now: datetime, first: int = 1
) -> Quality:
    """Gather the page of a model. A dozen queries, whatever there is."""
    report = quality.report_of(model, since=since, now=now)
    count = len(report.disagreements)
    first = first if first <= count else 1
    return Quality(
        report=report,
        in_all=quality.judged_in_all(model),
        holders=holders_of(model),
        flags=flags.flags_of(model, is_open=True, limit=MOST_FLAGS),
        resolved=flags.flags_of(model, is_open=False, limit=MOST_RESOLVED),
        gold=quality.gold_rows(model, report.gold, limit=MOST_GOLD),
        disputed=disputed_of(report, start=first - 1),
        first=first,
    )
