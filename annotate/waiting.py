"""What the judge page says while there is no pair: which step is under way, how long, who has to act."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from annotate import queries
from models_registry.models import RegisteredModel
from models_registry.queries import EngineProgress, Stage, engine_progress
from pairloop.lib import tags

#: Seconds from an engine that answers to the first pair, measured on two cores.
FIRST_PAIRS_S = 15
FIRST_PAIRS = "Write the first pairs"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why there is no pair, and when that changes."""

    title: str
    detail: str
    #: What an admin should do; empty when nobody has to do anything.
    advice: str = ""
    stages: tuple[Stage, ...] = ()
    seconds_left: int | None = None
    has_failed: bool = False

    @property
    def fingerprint(self) -> str:
        """What a waiting page sends along, so that it is only painted again when it changed."""
        shown = [self.title, self.detail, self.advice, self._expected]
        shown += [f"{stage.title} {stage.state} {stage.detail}" for stage in self.stages]
        return hashlib.sha256("\n".join(shown).encode()).hexdigest()[:12]

    @property
    def _expected(self) -> str:
        return "" if self.seconds_left is None else tags.wait(self.seconds_left)


def waiting_for(model: RegisteredModel) -> Waiting:
    """Say why a model has no pair to judge."""
    progress = engine_progress(model.slug)
    if model.has_failed:
        return Waiting(
            title="This model could not be prepared",
            detail=model.failure,
            advice="An admin has to remove the reason and start Pairloop again. It goes on where it stopped.",
            has_failed=True,
        )
    if failed := progress.failed:
        return _failed(failed, progress)
    if not (progress.is_ready and model.is_ready):
        return _starting(progress)
    if not any(queries.prompt_counts(model).values()):
        return Waiting(
            title="There are no prompts yet",
            detail="Pairs are written as answers to prompts, and this model has none.",
            advice="An admin imports prompts. The first pair appears here about half a minute later.",
        )
    if not queries.has_pairs(model):
        return _starting(progress)
    return Waiting(
        title="You have judged everything that waits",
        detail="New pairs are being written. The next one appears here by itself.",
    )


def _failed(stage: Stage, progress: EngineProgress) -> Waiting:
    return Waiting(
        title="Getting ready has stopped",
        detail=stage.detail,
        advice=(
            "An admin has to remove the reason and start Pairloop again. It goes on where it stopped, "
            "and every judgement so far is kept."
        ),
        stages=(*(_without_reason(stage) for stage in progress.stages), _first_pairs("waiting")),
        has_failed=True,
    )


def _without_reason(stage: Stage) -> Stage:
    # The page says it above, once.
    return replace(stage, detail="") if stage.has_failed else stage


def _starting(progress: EngineProgress) -> Waiting:
    last = _first_pairs("running" if progress.is_ready else "waiting")
    engine_left = 0 if progress.is_ready else progress.seconds_left
    return Waiting(
        title="Getting ready",
        detail="The first pair appears here by itself; you can leave this page open.",
        stages=(*progress.stages, last),
        seconds_left=None if engine_left is None else engine_left + FIRST_PAIRS_S,
    )


def _first_pairs(state: str) -> Stage:
    return Stage(
        title=FIRST_PAIRS,
        state=state,
        detail="The model answers a prompt several times; two of its answers make a pair.",
        seconds_left=FIRST_PAIRS_S,
    )
