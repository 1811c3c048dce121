"""What the home page and the probes read, over each app's queries."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.urls import reverse

from annotate import queries as annotate
from annotate.queries import DropCount
from models_registry.models import RegisteredModel
from models_registry.queries import (
    EngineProgress,
    aliases_of,
    comparison_newest,
    engine_progress,
    models_of,
)
from training import queries as training
from training.models import Round


@dataclass(frozen=True, slots=True)
class Desk:
    """A model as its labeler sees it."""

    model: RegisteredModel
    waiting: int


def desks_of(user: User) -> list[Desk]:
    """Return the models that somebody judges, with how many pairs wait. One query more per model."""
    return [Desk(model=model, waiting=annotate.queue_length(model)) for model in models_of(user)]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the loop."""

    title: str
    #: "done", "current" or "waiting".
    state: str
    #: The number that says how far it is; empty for a step that has none yet.
    figure: str
    detail: str
    #: Where one can see or do it; empty: nowhere yet.
    url: str = ""

    @property
    def is_current(self) -> bool:
        """Whether the next action is here."""
        return self.state == "current"


@dataclass(frozen=True, slots=True)
class Loop:
    """A model as its admin sees it."""

    model: RegisteredModel
    steps: tuple[Step, ...]
    next_action: str
    can_judge: bool
    #: The newest round, while somebody may be waiting for it.
    round: Round | None
    drops: list[DropCount]
    engine: EngineProgress


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is of everything in one loop."""

    train: int
    holdout: int
    waiting: int
    judgements: int
    triples: int
    #: New triples that start a round; 0: only by hand.
    trigger: int
    sampler: str
    champion: str
    #: What the newest comparison is about, and how many judgements it has; empty without one.
    comparison: str
    compared: str

    @property
    def prompts(self) -> int:
        """Prompts on both sides."""
        return self.train + self.holdout


def loops_of(user: User) -> list[Loop]:
    """Return every loop that an admin looks after. Ten queries more per model."""
    return [_loop(model) for model in models_of(user)]


def _loop(model: RegisteredModel) -> Loop:
    progress = engine_progress(model.slug)
    prompts = annotate.prompt_counts(model)
    aliases = aliases_of(model)
    round_ = training.round_under_way(model)
    comparison = comparison_newest(model)
    counts = Counts(
        train=prompts["train"],
        holdout=prompts["holdout"],
        waiting=annotate.queue_length(model),
        judgements=annotate.judgements_count(model),
        triples=training.triples_waiting(model),
        trigger=training.policy_of(model).trigger_triples,
        sampler=aliases.get("sampler", ""),
        champion=aliases.get("champion", ""),
        comparison=f"judged of {comparison.versions}" if comparison else "",
        compared=f"{comparison.outcomes}/{comparison.budget}" if comparison else "",
    )
    current, next_action = _next(model, progress, counts, round_)
    return Loop(
        model=model,
        steps=_steps(model, counts, current, round_),
        next_action=next_action,
        can_judge=counts.waiting > 0,
        round=round_,
        drops=annotate.drop_counts(model),
        engine=progress,
    )


def _next(
    model: RegisteredModel, progress: EngineProgress, counts: Counts, round_: Round | None
) -> tuple[str, str]:
    """Return the step where the next action is, and the action as a sentence."""
    if model.has_failed:
        return "Prompts", f"This model could not be prepared: {model.failure}"
    if not counts.prompts:
        return (
            "Prompts",
            "Import prompts: without them there is nothing to answer and nothing to judge.",
        )
    if round_:
        return "Round", f"Round {round_.number} is under way; pairs can be judged meanwhile."
    last = training.round_last(model)
    if last and last.has_failed:
        return "Round", f"Round {last.number} failed: {last.failure}"
    if counts.sampler != counts.champion and not progress.failed:
        return (
            "Promote",
            (
                f"{counts.sampler} writes the pairs, {counts.champion} is the champion. Look at what"
                " changed and promote it, or judge on."
            ),
        )
    if counts.waiting:
        return "Judgements", f"{_waiting(counts.waiting)} to be judged."
    return _next_pairs(model, progress)


def _next_pairs(model: RegisteredModel, progress: EngineProgress) -> tuple[str, str]:
    """Say why no pair waits, and whether somebody has to do something about it."""
    if progress.failed:
        return "Pairs", f"“{progress.failed.title}” failed: {progress.failed.detail}"
    if not (progress.is_ready and model.is_ready):
        return (
            "Pairs",
            "Nothing to do: the engine is starting, and the first pairs follow by themselves.",
        )
    return "Pairs", "Nothing to do: the engine is writing new pairs, and they queue by themselves."


def _waiting(count: int) -> str:
    if count >= annotate.MOST_COUNTED:
        return f"{count:,} pairs or more wait"
    return "1 pair waits" if count == 1 else f"{count} pairs wait"


def _steps(
    model: RegisteredModel, counts: Counts, current: str, round_: Round | None
) -> tuple[Step, ...]:
    def step(title: str, figure: int | str, detail: str, url: str = "") -> Step:
        state = "current" if title == current else "done" if figure else "waiting"
        return Step(title=title, state=state, figure=str(figure), detail=detail, url=url)

    judge, rounds = reverse("judge", args=[model.slug]), reverse("rounds", args=[model.slug])
    return (
        step(
            "Prompts",
            counts.prompts,
            f"{counts.train} to train on, {counts.holdout} held out"
            if counts.prompts
            else "none yet; an admin imports them",
            reverse("prompts", args=[model.slug]),
        ),
        step(
            "Pairs",
            counts.waiting,
            f"wait to be judged; {counts.sampler or 'the first version'} writes the next"
            if counts.prompts
            else "are written once there are prompts",
            reverse("settings", args=[model.slug]) + "#sampling",
        ),
        step("Judgements", counts.judgements, "recorded so far", judge),
        _round_step(counts, current, round_, rounds),
        step(
            "Compare",
            counts.compared,
            counts.comparison or "two versions on the same held-out prompts",
            reverse("compare", args=[model.slug]),
        ),
        step(
            "Promote",
            counts.champion,
            "is the champion" if counts.champion else "once a version is there",
            reverse("versions", args=[model.slug]),
        ),
    )


def _round_step(counts: Counts, current: str, round_: Round | None, url: str) -> Step:
    """Say how many triples wait for the next round, or which one is under way."""
    if round_:
        return Step(
            title="Round",
            state="current",
            figure=f"No. {round_.number}",
            detail=round_.get_state_display().lower(),
            url=reverse("round", args=[round_.model.slug, round_.number]),
        )
    figure = f"{counts.triples}/{counts.trigger}" if counts.trigger else str(counts.triples)
    detail = (
        "triples wait; it starts by itself" if counts.trigger else "triples wait; start it by hand"
    )
    state = "current" if current == "Round" else "done" if counts.triples else "waiting"
    return Step(title="Round", state=state, figure=figure, detail=detail, url=url)
