"""The round, top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from training.dpo import checkpoint, data, files, metrics, model, objective, reference, version
from training.dpo.checkpoint import Checkpoint
from training.dpo.data import Data, Triple
from training.dpo.events import Events
from training.dpo.failures import RoundFailed
from training.dpo.reference import Scores
from training.dpo.spec import Optimizer, Spec
from training.dpo.stopping import Stop

#: How many rows pass between two lines of progress.
PROGRESS_EVERY = 4
EVAL_KEYS = ("loss", "accuracy", "margin")


@dataclass(frozen=True, slots=True)
class Trainer:
    """What all stages of a round need."""

    folder: Path
    spec: Spec
    events: Events
    stop: Stop
    policy: PeftModel
    snapshot: Data
    holdout: Data
    steps: int

    def progress(self, stage: str, done: int, of: int) -> None:
        """Say how many rows a stage has done, and stop here when asked. Raises Stopped."""
        if done % PROGRESS_EVERY == 0 or done == of:
            self.events.stage(stage, done, of)
        self.stop.obey()


def run(*, folder: Path, spec: Spec, events: Events, stop: Stop) -> dict[str, Any]:
    """Train one round and return its result. Raises RoundFailed and Stopped."""
    began = time.monotonic()
    torch.set_num_threads(spec.machine.threads)
    torch.use_deterministic_algorithms(True)
    trainer = _prepared(folder=folder, spec=spec, events=events, stop=stop)
    identity = checkpoint.identity(folder)
    saved = checkpoint.latest(folder / "checkpoints", identity=identity)
    events.write(
        "start",
        pairs=len(trainer.snapshot.triples),
        holdout=len(trainer.holdout.triples),
        steps=trainer.steps,
        epochs=spec.epochs,
        resumed_from=saved.step if saved else 0,
        dropped=_dropped(trainer),
        tokenised=trainer.snapshot.tokenised + trainer.holdout.tokenised,
    )
    # The reference is the policy before its first step: nothing was restored yet.
    scores = _reference_scores(trainer)
    before = saved.state["before"] if saved else _evaluate(trainer, scores, step=0)
    state = _train(trainer, scores, before=before, saved=saved, identity=identity, began=began)
    after = _evaluate(trainer, scores, step=trainer.steps)
    _save(trainer, before=before, after=after)
    return {
        "outcome": "done",
        "steps": trainer.steps,
        "metrics": state["metrics"],
        "dropped": _dropped(trainer),
        "seconds": _seconds(saved, began),
    }


def learning_rate(optimizer: Optimizer, *, step: int, steps: int) -> float:
    """Return the rate of a step (0-based): up over the warmup, then down to 0 after the last; never 0 itself."""
    warmup = math.ceil(optimizer.warmup * steps)
    if step < warmup:
        return optimizer.learning_rate * (step + 1) / (warmup + 1)
    return optimizer.learning_rate * (steps - step) / (steps - warmup)


def _prepared(*, folder: Path, spec: Spec, events: Events, stop: Stop) -> Trainer:
    """Load model and data. Raises RoundFailed."""
    print(f"Loading the base and the adapter of v{spec.parent.number}", flush=True)
    policy = model.policy_load(spec)
    read = partial(
        data.read,
        tokeniser=model.tokeniser_load(spec.base),
        max_tokens=min(spec.max_tokens, model.context(policy) or spec.max_tokens),
        vocabulary=model.vocabulary(policy),
    )
    snapshot, holdout = read(folder / "snapshot.jsonl"), read(folder / "holdout.jsonl")
    if not snapshot.triples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in snapshot.dropped.items())
        raise RoundFailed(
            "no_usable_triples",
            f"No triple can be trained on ({reasons or 'the snapshot is empty'}); judge more pairs first.",
        )
    events.stage("loading", 1, 1)
    stop.obey()
    return Trainer(
        folder=folder,
        spec=spec,
        events=events,
        stop=stop,
        policy=policy,
        snapshot=snapshot,
        holdout=holdout,
        steps=spec.epochs * data.steps_per_epoch(len(snapshot.triples), spec.batch_pairs),
    )


def _reference_scores(trainer: Trainer) -> Scores:
    """Return the reference's score of every row, from the store or new."""
    spec = trainer.spec
    scores = reference.open_for(spec)
    with model.reference_of(trainer.policy, spec.reference.kind) as policy:
        count = reference.fill(
            scores,
            reference=policy,
            triples=trainer.snapshot.triples + trainer.holdout.triples,
            progress=lambda done, of: trainer.progress("reference", done, of),
        )
    print(f"The reference ({spec.reference.kind}) scored {count} completions anew", flush=True)
    return scores


def _train(
    trainer: Trainer,
    scores: Scores,
    *,
    before: dict[str, Any] | None,
    saved: Checkpoint | None,
    identity: str,
    began: float,
) -> dict[str, Any]:
    """Take the steps that are left; return the state after the last."""
    spec, policy = trainer.spec, trainer.policy
    optimizer = torch.optim.AdamW(
        model.trainable(policy).values(),
        lr=spec.optimizer.learning_rate,
        weight_decay=spec.optimizer.weight_decay,
    )
    if saved:
        checkpoint.restore(saved, policy=policy, optimizer=optimizer)
    state: dict[str, Any] = saved.state if saved else {}
    first = saved.step if saved else 0
    trainer.events.stage("training", first, trainer.steps)
    for step in range(first, trainer.steps):
        measured = _step(trainer, scores, optimizer, step=step)
        done = step + 1
        if done % spec.checkpoint_steps == 0 or done == trainer.steps or trainer.stop.asked:
            state = {"before": before, "metrics": measured, "seconds": _seconds(saved, began)}
            checkpoint.save_step(
                trainer.folder / "checkpoints",
                identity=identity,
                step=done,
                state=state,
                policy=policy,
                optimizer=optimizer,
            )
            trainer.events.write("checkpoint", step=done)
        trainer.stop.obey()
    return state


def _step(
    trainer: Trainer, scores: Scores, optimizer: torch.optim.Optimizer, *, step: int
) -> dict[str, Any]:
    """Take one optimizer step and report it. Raises RoundFailed before it would break the weights."""
    spec, began = trainer.spec, time.monotonic()
    triples = trainer.snapshot.triples
    batch = data.batch(triples, step=step, batch_pairs=spec.batch_pairs, seed=spec.seed)
    rate = learning_rate(spec.optimizer, step=step, steps=trainer.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    scored = objective.batch_backward(trainer.policy, batch, scores, spec.loss)
    weights = model.trainable(trainer.policy).values()
    norm = torch.nn.utils.clip_grad_norm_(weights, spec.optimizer.clip).item()
    measured = metrics.summary(scored) | {"grad_norm": norm, "learning_rate": rate}
    if not all(value is None or math.isfinite(value) for value in measured.values()):
        raise RoundFailed(
            "loss_not_finite",
            f"Loss or gradient of step {step + 1} is not finite; lower the learning rate.",
        )
    optimizer.step()
    where = {
        "step": step + 1,
        "of": trainer.steps,
        "epoch": step // data.steps_per_epoch(len(triples), spec.batch_pairs) + 1,
    }
    cost = {"tokens": _tokens(batch), "seconds": round(time.monotonic() - began, 3)}
    trainer.events.write("step", **where, **measured, **cost)
    print(
        f"Step {step + 1} of {trainer.steps}: loss {measured['loss']:.4f}, "
        f"margin {measured['margin']:.4f}, {cost['seconds']} s",
        flush=True,
    )
    return measured


def _evaluate(trainer: Trainer, scores: Scores, *, step: int) -> dict[str, Any] | None:
    """Measure the policy on the held-out pairs; None when there are none."""
    triples, scored = trainer.holdout.triples, []
    if not triples:
        return None
    with torch.no_grad():
        for number, triple in enumerate(triples):
            trainer.progress("evaluating", number, len(triples))
            scored.append(objective.score_triple(trainer.policy, triple, scores, trainer.spec.loss))
    trainer.progress("evaluating", len(triples), len(triples))
    measured = metrics.summary(scored)
    values = {key: measured[key] for key in EVAL_KEYS}
    if not all(value is None or math.isfinite(value) for value in values.values()):
        raise RoundFailed(
            "loss_not_finite", "The loss on held-out pairs is not finite; lower the learning rate."
        )
    trainer.events.write("eval", step=step, pairs=len(triples), **values)
    return values


def _save(trainer: Trainer, *, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
    """Write version and evaluation."""
    trainer.events.stage("saving", 0, 1)
    report = version.Report(
        snapshot=trainer.snapshot,
        holdout=trainer.holdout,
        steps=trainer.steps,
        before=before,
        after=after,
    )
    files.write_json(
        trainer.folder / "eval.json",
        {
            "pairs": len(trainer.holdout.triples),
            "before": before,
            "after": after,
            "reference": trainer.spec.reference.kind,
        },
    )
    version.write(
        trainer.folder / "version", policy=trainer.policy, spec=trainer.spec, report=report
    )
    trainer.events.stage("saving", 1, 1)


def _dropped(trainer: Trainer) -> dict[str, int]:
    """Return the count of unusable triples by reason, those held out under reasons of their own."""
    held_out = {f"holdout_{reason}": count for reason, count in trainer.holdout.dropped.items()}
    return {**trainer.snapshot.dropped, **held_out}


def _tokens(batch: list[Triple]) -> int:
    return sum(triple.chosen.tokens + triple.rejected.tokens for triple in batch)


def _seconds(saved: Checkpoint | None, began: float) -> float:
    """Return how long the round has taken, attempts before this one included."""
    earlier: float = saved.state["seconds"] if saved else 0.0
    return round(earlier + time.monotonic() - began, 3)
