"""How far an attempt is, out of the trainer's events; no Django in here."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Seconds of loading and of saving, measured with a model of 135 million parameters on two cores.
LOADING_S = 12.0
SAVING_S = 6.0
#: A step computes forward and backward what the reference pass only computes forward.
STEP_PER_REFERENCE = 3.0
#: Steps whose time is averaged for the rest: early ones are slower.
RECENT = 10
#: What is told of a step as well as of the held-out triples; `training.dpo.metrics.summary`.
SUMMARY = (
    "loss", "loss_preference", "loss_nll", "margin", "margin_p10", "margin_p90", "accuracy", "calibration",
    "drift_chosen", "drift_rejected", "nll_chosen", "length_ratio", "ties_margin",
)  # fmt: skip
STEP_METRICS = (
    *SUMMARY, "grad_norm", "learning_rate", "pairs", "tokens", "tokens_saved", "seconds", "tokens_per_s",
)  # fmt: skip
EVAL_METRICS = (*SUMMARY, "accuracy_low", "accuracy_high", "pairs")


@dataclass(slots=True)
class Progress:
    """What the events so far amount to."""

    stage: str = "loading"
    done: int = 0
    of: int = 0
    steps: int = 0
    steps_done: int = 0
    batch_pairs: int = 1
    #: Held-out triples, and how often they are yet to be scored: before the first step and after the last.
    holdout: int = 0
    evaluations: int = 2
    #: (step, name, value), not yet taken by whoever stores them.
    metrics: list[tuple[int, str, float]] = field(default_factory=list)
    _began: float = 0.0
    _last: float = 0.0
    #: When the first completions were scored, and how many.
    _first_scored: tuple[float, int] | None = None
    _reference_s: float | None = None
    _step_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take one event; an unknown one changes nothing."""
        at = float(event.get("at") or self._last)
        self._began = self._began or at
        self._last = at
        kind = event.get("event")
        if kind == "start":
            self.steps = int(event.get("steps") or 0)
            self.steps_done = int(event.get("resumed_from") or 0)
            self.holdout = int(event.get("holdout") or 0)
            self.evaluations = 1 if self.steps_done else 2
        elif kind == "stage":
            self._hear_stage(str(event.get("stage")), event, at)
        elif kind == "reference":
            self._hear_reference(event)
        elif kind == "step":
            self._hear_step(event)
        elif kind == "eval":
            self.evaluations = max(self.evaluations - 1, 0)
            self._take(event, EVAL_METRICS, prefix="holdout_")

    def _take(self, event: Mapping[str, Any], names: tuple[str, ...], prefix: str = "") -> None:
        """Keep the numbers of an event; one that is null was not there to be measured."""
        step = int(event.get("step") or 0)
        self.metrics += [
            (step, prefix + name, float(event[name]))
            for name in names
            if isinstance(event.get(name), int | float)
        ]

    def _hear_stage(self, stage: str, event: Mapping[str, Any], at: float) -> None:
        done, of = int(event.get("done") or 0), int(event.get("of") or 0)
        if stage == "reference" and done:
            if self._first_scored is None:
                # Not counted: the first ones also warm everything up.
                self._first_scored = (at, done)
            elif done > self._first_scored[1]:
                began, first = self._first_scored
                self._reference_s = (at - began) / (done - first)
        self.stage, self.done, self.of = stage, done, of

    def _hear_reference(self, event: Mapping[str, Any]) -> None:
        """Take what the whole pass cost; a store that knew every completion says nothing about that."""
        scored, seconds = event.get("scored"), event.get("seconds")
        if scored and isinstance(seconds, int | float):
            self._reference_s = float(seconds) / int(scored)

    def _hear_step(self, event: Mapping[str, Any]) -> None:
        step = int(event.get("step") or 0)
        self.stage, self.done, self.of = "training", step, int(event.get("of") or self.steps)
        self.steps_done = step
        if isinstance(event.get("seconds"), int | float):
            self._step_s.append(float(event["seconds"]))
        self.evaluations = min(self.evaluations, 1)
        self._take(event, STEP_METRICS)

    def metrics_taken(self) -> list[tuple[int, str, float]]:
        """Return the numbers heard since the last call."""
        taken, self.metrics = self.metrics, []
        return taken

    @property
    def step_s(self) -> float | None:
        """Seconds that a step takes: measured, or guessed from the reference pass before the first one."""
        if self._step_s:
            return sum(self._step_s) / len(self._step_s)
        if self._reference_s is not None:
            return 2 * self._reference_s * self.batch_pairs * STEP_PER_REFERENCE
        return None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the adapter is written; None while nothing was measured."""
        if self.stage == "saving":
            return SAVING_S / 2
        if self.step_s is None:
            return None
        left = (self.steps - self.steps_done) * self.step_s + SAVING_S
        if self.stage == "reference" and self._reference_s is not None:
            left += (self.of - self.done) * self._reference_s
        return left + self._evaluations_s(self.step_s)

    def _evaluations_s(self, step_s: float) -> float:
        """Return the seconds for the held-out triples: forward only, like the reference pass."""
        triple_s = step_s / (self.batch_pairs * STEP_PER_REFERENCE)
        done = self.done if self.stage == "evaluating" else 0
        return max(self.evaluations * self.holdout - done, 0) * triple_s

    @property
    def fraction(self) -> float:
        """Share of the whole that is done, by time; never 1 before the end."""
        spent = self._last - self._began
        left = self.seconds_left
        if left is None:
            return min(0.05, 0.05 * spent / LOADING_S)
        return min(spent / (spent + left), 0.99) if spent + left > 0 else 0.0
