"""What the home page and the probes read, over each app's queries."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from annotate import queries as annotate
from annotate.queries import DropCount
from models_registry.models import RegisteredModel
from models_registry.queries import EngineProgress, engine_progress, models_of
from pairloop.lib.errors import Refused


class DatabaseNotReady(Refused):
    """The database does not answer. Start it, or wait until it has started."""

    code = "database_not_ready"


class MigrationsMissing(DatabaseNotReady):
    """The database is older than this release. Run `python manage.py migrate`."""

    code = "migrations_missing"


def database_check() -> None:
    """Raise DatabaseNotReady unless the database answers and is as new as the code."""
    try:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        raise DatabaseNotReady from error
    if plan:
        raise MigrationsMissing


def engine_state() -> str:
    """Return "ready", "starting" or "failed", or "elsewhere" when no supervisor runs here."""
    progress = engine_progress()
    if not progress.stages:
        return "elsewhere"
    if progress.failed:
        return "failed"
    return "ready" if progress.is_ready else "starting"


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
    #: "done", "current", "waiting" or "later".
    state: str
    #: The number that says how far it is; empty for a step that has none yet.
    figure: str
    detail: str

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
    drops: list[DropCount]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is of everything in one loop."""

    train: int
    holdout: int
    waiting: int
    judgements: int

    @property
    def prompts(self) -> int:
        """Prompts on both sides."""
        return self.train + self.holdout


def loops_of(user: User) -> list[Loop]:
    """Return every loop that an admin looks after. Four queries more per model."""
    progress = engine_progress()
    return [_loop(model, progress) for model in models_of(user)]


def _loop(model: RegisteredModel, progress: EngineProgress) -> Loop:
    prompts = annotate.prompt_counts(model)
    counts = Counts(
        train=prompts["train"],
        holdout=prompts["holdout"],
        waiting=annotate.queue_length(model),
        judgements=annotate.judgements_count(model),
    )
    current, next_action = _next(model, progress, counts)
    return Loop(
        model=model,
        steps=_steps(counts, current),
        next_action=next_action,
        can_judge=counts.waiting > 0,
        drops=annotate.drop_counts(model),
    )


def _next(model: RegisteredModel, progress: EngineProgress, counts: Counts) -> tuple[str, str]:
    """Return the step where the next action is, and the action as a sentence."""
    if model.has_failed:
        return "Prompts", f"This model could not be prepared: {model.failure}"
    if not counts.prompts:
        return (
            "Prompts",
            "Import prompts: without them there is nothing to answer and nothing to judge.",
        )
    if counts.waiting:
        return "Judgements", f"{_waiting(counts.waiting)} to be judged."
    if progress.failed:
        return "Pairs", f"“{progress.failed.title}” failed: {progress.failed.detail}"
    if not (progress.is_ready and model.is_ready):
        return (
            "Pairs",
            "Nothing to do: the engine is starting, and the first pairs follow by themselves.",
        )
    return "Pairs", "Nothing to do: the engine is writing new pairs, and they queue by themselves."


def _waiting(count: int) -> str:
    return "1 pair waits" if count == 1 else f"{count} pairs wait"


def _steps(counts: Counts, current: str) -> tuple[Step, ...]:
    def step(title: str, figure: int, detail: str) -> Step:
        state = "current" if title == current else "done" if figure else "waiting"
        return Step(title=title, state=state, figure=str(figure), detail=detail)

    return (
        step(
            "Prompts",
            counts.prompts,
            f"{counts.train} to train on, {counts.holdout} held out"
            if counts.prompts
            else "none yet; an admin imports them",
        ),
        step(
            "Pairs",
            counts.waiting,
            "wait to be judged" if counts.prompts else "are written once there are prompts",
        ),
        step("Judgements", counts.judgements, "recorded so far"),
        Step(
            title="Round",
            state="later",
            figure="",
            detail="training arrives in a later release",
        ),
        Step(title="Compare", state="later", figure="", detail="arrives in a later release"),
        Step(title="Promote", state="later", figure="", detail="arrives in a later release"),
    )
