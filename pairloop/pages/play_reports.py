"""What the playground shows of a question: its two sides, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone

from annotate.queries import policy_of
from annotate.waiting import Waiting
from models_registry.engine.types import Sampling
from models_registry.models import ModelVersion, Play, RegisteredModel
from models_registry.play_queries import answer_seconds, versions_unloaded
from models_registry.queries import EngineProgress, engine_progress

#: Seconds that an adapter takes to be loaded and checked, once the worker's next tick has come.
LOADING_S = 20
#: Seconds after which somebody should look at the worker.
LONG_S = 180


@dataclass(frozen=True, slots=True)
class Side:
    """One answer, as far as it may be known."""

    name: str
    text: str
    #: "stop" or "length"; empty while there is no answer.
    finish_reason: str
    is_picked: bool
    #: None until it may be known.
    version: ModelVersion | None
    tokens: int | None
    seconds: float | None

    @property
    def is_cut(self) -> bool:
        """Whether it ran into the limit of tokens."""
        return self.finish_reason == "length"


def sides_of(play: Play) -> tuple[Side, Side]:
    """Return the left and the right answer; who wrote them only once that may be known."""
    shown = play.is_revealed
    return (
        Side(
            name="left",
            text=play.left_text,
            finish_reason=play.left_finish_reason,
            is_picked=play.pick == Play.Pick.LEFT,
            version=play.left_version if shown else None,
            tokens=play.left_tokens if shown else None,
            seconds=play.left_seconds if shown else None,
        ),
        Side(
            name="right",
            text=play.right_text,
            finish_reason=play.right_finish_reason,
            is_picked=play.pick == Play.Pick.RIGHT,
            version=play.right_version if shown else None,
            tokens=play.right_tokens if shown else None,
            seconds=play.right_seconds if shown else None,
        ),
    )


def sampling_of(model: RegisteredModel) -> Sampling:
    """Return how the model's pairs are drawn, so that the playground shows what labelers see."""
    policy = policy_of(model)
    return Sampling(
        temperature=policy.temperature, top_p=policy.top_p, max_tokens=policy.max_tokens
    )


def waiting_of(play: Play) -> Waiting:
    """Say what a question waits for, and for how long."""
    progress = engine_progress(play.model.slug)
    if progress.failed:
        return _engine_failed(progress)
    if not progress.is_ready:
        return _engine_starting(play, progress)
    missing = versions_unloaded(play)
    expected = answer_seconds(play) + (LOADING_S if missing else 0)
    waited = (timezone.now() - play.created_at).total_seconds()
    if waited > LONG_S:
        return Waiting(
            title="Still waiting",
            detail="This takes longer than it should. Your question is kept, and is answered by itself.",
            advice="The log of the worker says what keeps it.",
        )
    left = max(round(expected - waited), 1)
    if missing:
        names = " and ".join(version.label for version in missing)
        is_are = "are" if len(missing) > 1 else "is"
        return Waiting(
            title="Loading",
            detail=f"{names} {is_are} not in the engine yet: it loads what it lacks, then both versions answer.",
            seconds_left=left,
        )
    return Waiting(
        title="Both are answering",
        detail="The answers appear here by themselves; you can leave this page open.",
        seconds_left=left,
    )


def _engine_failed(progress: EngineProgress) -> Waiting:
    failed = progress.failed
    detail = f"“{failed.title}” failed: {failed.detail}" if failed else ""
    return Waiting(
        title="The engine does not run",
        detail=detail,
        advice=(
            "Remove the reason and start Pairloop again. Your question is kept, and is answered once the "
            "engine is back."
        ),
        has_failed=True,
    )


def _engine_starting(play: Play, progress: EngineProgress) -> Waiting:
    left = progress.seconds_left
    return Waiting(
        title="The engine is starting",
        detail="Nothing to do: your question is kept, and is answered once the engine is there.",
        stages=progress.stages,
        seconds_left=None if left is None else left + answer_seconds(play),
    )
