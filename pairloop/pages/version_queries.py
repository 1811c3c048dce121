"""What the pages about versions read: the registry's rows, and which round made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django.urls import reverse
from django.utils.safestring import SafeString

from models_registry import queries as registry
from models_registry import serving
from models_registry.models import Alias, ModelVersion, RegisteredModel, Serving
from pairloop.lib import lineage
from pairloop.lib.charts import Mark, Trend
from training import measures
from training.cards import card_of
from training.learned import Learned, learned_by, learned_of
from training.measures import Measure, Value
from training.models import Round
from training.reports import Row, measured_rows
from training.rewards import Ratings, ratings_of

STATES = {
    ModelVersion.State.REGISTERED: "waits for its check",
    ModelVersion.State.VERIFIED: "verified",
    ModelVersion.State.RETIRED: "retired",
    ModelVersion.State.CORRUPT: "corrupt",
}
#: How far a version may be trusted -> how its dot is drawn.
LOOKS = {
    ModelVersion.State.REGISTERED: "waiting",
    ModelVersion.State.VERIFIED: "whole",
    ModelVersion.State.RETIRED: "gone",
    ModelVersion.State.CORRUPT: "broken",
}


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version as its pages show it."""

    version: ModelVersion
    aliases: tuple[str, ...]
    #: The number of the round that made it; None for the base.
    round: int | None
    serving: Serving | None

    @property
    def state(self) -> str:
        """How far it may be trusted, in words."""
        if self.is_waiting and self.has_failed:
            return "failed its check"
        return STATES[ModelVersion.State(self.version.state)]

    @property
    def unverified(self) -> str:
        """Why it cannot become champion, to go on after "this one"."""
        return self.state if self.is_waiting else f"is {self.state}"

    @property
    def is_waiting(self) -> bool:
        """Whether no engine has checked it yet."""
        return self.version.state == ModelVersion.State.REGISTERED

    @property
    def is_bad(self) -> bool:
        """Whether somebody should look at it."""
        return self.is_corrupt or self.has_failed

    @property
    def is_corrupt(self) -> bool:
        """Whether its files are not what was stored."""
        return self.version.state == ModelVersion.State.CORRUPT

    @property
    def has_failed(self) -> bool:
        """Whether the engine that runs now did not compute what the trainer did."""
        return bool(self.serving and self.serving.canary.get("passed") is False)

    @property
    def is_champion(self) -> bool:
        """Whether people proved it best."""
        return "champion" in self.aliases

    @property
    def average(self) -> str:
        """Of which versions it is the mean; empty for what was trained."""
        return registry.average_said(self.version.average) if self.version.average else ""

    @property
    def canary(self) -> str:
        """What its last check on the engine found, as a phrase."""
        if self.version.is_base:
            return "not needed: it is the base itself"
        found = self.serving.canary if self.serving else {}
        if self.is_corrupt:
            return "not possible any more"
        if "passed" not in found:
            return "not done yet: the worker does it once the engine runs"
        if not found["passed"]:
            return f"failed: {found['note']}"
        if found["note"]:
            return f"passed, {found['note']}"
        share = found["difference"] / found["effect"]
        return f"passed: the engine is off by {share:.1%} of what training changed"


def version_row(*, model: RegisteredModel, number: int) -> VersionRow:
    """Return one version; raises ModelVersion.DoesNotExist for a number that the model has not."""
    version = registry.versions_of(model).get(number=number)
    made_by = Round.objects.filter(version=version).values_list("number", flat=True).first()
    return _row(version, round_number=made_by)


def _row(version: ModelVersion, *, round_number: int | None) -> VersionRow:
    ours = (one for one in version.servings.all() if one.engine in serving.urls())
    return VersionRow(
        version=version,
        aliases=tuple(sorted(alias.name for alias in version.aliases.all())),
        round=round_number,
        serving=next(ours, None),
    )


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """What was measured on one version, a cell for each of MEASURES; empty where nothing is known."""

    version: ModelVersion
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LearnedRow:
    """One version and what it learned from."""

    version: ModelVersion
    learned: Learned | None


@dataclass(frozen=True, slots=True)
class History:
    """A model's versions as its page shows them."""

    #: The newest first.
    rows: tuple[VersionRow, ...]
    lineage: SafeString
    learned: tuple[LearnedRow, ...]
    charts: tuple[Trend, ...]
    measures: tuple[Measure, ...]
    measured: tuple[MeasuredRow, ...]


def history_of(model: RegisteredModel) -> History:
    """Gather a model's page of versions; a fixed number of queries."""
    learned = learned_of(model)
    rows = tuple(
        _row(version, round_number=_round_number(learned.get(version.pk)))
        for version in registry.versions_of(model)
    )
    oldest = tuple(reversed(rows))
    values = _values([row.version for row in oldest], learned)
    shown = tuple(
        measure
        for measure in measures.MEASURES
        if any(measure.key in found for found in values.values())
    )
    return History(
        rows=rows,
        lineage=_lineage(oldest, learned),
        learned=tuple(LearnedRow(row.version, learned.get(row.version.pk)) for row in rows),
        charts=tuple(
            trend for measure in shown if len((trend := _trend(measure, oldest, values)).marks) > 1
        ),
        measures=shown,
        measured=tuple(
            MeasuredRow(row.version, _cells(shown, values[row.version.pk])) for row in rows
        ),
    )


def _round_number(learned: Learned | None) -> int | None:
    return learned.round.number if learned else None


def _values(
    versions: Iterable[ModelVersion], learned: Mapping[int, Learned]
) -> dict[int, dict[str, Value]]:
    """Return what was measured on each version, by its id."""
    base = measures.values_of_base(one.round for one in learned.values())
    return {
        version.pk: (
            measures.values_of(learned[version.pk].round)
            if version.pk in learned
            else base
            if version.is_base
            else {}
        )
        for version in versions
    }


def _cells(shown: Iterable[Measure], values: Mapping[str, Value]) -> tuple[str, ...]:
    return tuple(
        measure.text(values[measure.key].value) if measure.key in values else ""
        for measure in shown
    )


def _trend(
    measure: Measure, rows: Iterable[VersionRow], values: Mapping[int, Mapping[str, Value]]
) -> Trend:
    """Return a measure from version to version."""
    marks = []
    for row in rows:
        found = values[row.version.pk].get(measure.key)
        if found:
            parent = row.version.parent
            marks.append(
                Mark(
                    name=row.version.label,
                    value=found.value,
                    parent=parent.label if parent else "",
                    interval=found.interval,
                )
            )
    return Trend(
        title=measure.title,
        hint=measure.hint,
        names=tuple(row.version.label for row in rows),
        marks=tuple(marks),
        text=measure.text,
    )


def _lineage(rows: Iterable[VersionRow], learned: Mapping[int, Learned]) -> SafeString:
    return lineage.draw(
        [_node(row, learned.get(row.version.pk)) for row in rows],
        label="Which version was made from which; the table says the same",
    )


def _node(row: VersionRow, learned: Learned | None) -> lineage.Node:
    version = row.version
    parent = version.parent
    return lineage.Node(
        key=version.number,
        parent=parent.number if parent else None,
        label=version.label,
        url=reverse("version", args=[version.model.slug, version.number]),
        caption=_caption(version, learned),
        names=tuple(sorted(row.aliases, key=_rank)),
        main=Alias.CHAMPION,
        note="" if version.is_verified else row.state,
        look="broken" if row.is_bad else LOOKS[ModelVersion.State(version.state)],
    )


def _rank(alias: str) -> tuple[int, str]:
    """Put the champion first."""
    return (alias != Alias.CHAMPION, alias)


def _caption(version: ModelVersion, learned: Learned | None) -> str:
    if learned:
        plural = "" if learned.triples == 1 else "s"
        return f"round {learned.round.number} · {learned.triples:,} triple{plural}"
    if version.average:
        parts = ", ".join(f"v{part['number']}" for part in version.average["versions"])
        return f"mean of {parts}"
    return "the base" if version.is_base else ""


@dataclass(frozen=True, slots=True)
class Details:
    """What a version's own page tells beyond its row."""

    learned: Learned | None
    accuracy: Value | None
    #: Measured on its answers, beside its parent's and the base's.
    measured: tuple[Row, ...]
    #: How it rates the judged held-out pairs; None for a base.
    ratings: Ratings | None
    #: (title, value, explanation) of the last training step.
    training: tuple[tuple[str, str, str], ...]
    #: (reason, triples) that the trainer left out.
    dropped: tuple[tuple[str, int], ...]
    #: Its card, without the part for machines.
    card: str


def details_of(version: ModelVersion) -> Details:
    """Gather what was learned and measured, and the card."""
    learned = learned_by(version)
    round_ = learned.round if learned else None
    return Details(
        learned=learned,
        accuracy=measures.values_of(round_).get("accuracy") if round_ else None,
        measured=measured_rows(round_.evaluation) if round_ else (),
        ratings=ratings_of(round_) if round_ else None,
        training=tuple(
            measures.training_rows(version.metrics, round_.spec.get("loss") if round_ else None)
        ),
        dropped=tuple(measures.dropped_rows(version.metrics)),
        card=card_of(version).body,
    )
