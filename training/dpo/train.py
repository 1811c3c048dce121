"""The round, top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from training.dpo import (
    checkpoint,
    data,
    files,
    metrics,
    model,
    objective,
    pack,
    reference,
    score,
    version,
)
from training.dpo.bar import say
from training.dpo.checkpoint import Checkpoint
from training.dpo.data import Data
from training.dpo.events import Events
from training.dpo.failures import RoundFailed
from training.dpo.losses import Losses, Pairs
from training.dpo.reference import Scores
from training.dpo.score import Scorer
from training.dpo.spec import Optimizer, Spec
from training.dpo.stopping import Stop

#: Tokens computed at once: enough to fill the processor's products, few enough to bound the memory. Measured on two
#: cores, 1024 are no faster and take 0.5 GB more (docs/experiments.md).
PACK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Trainer:
    """What all stages of a round need."""

    folder: Path
    spec: Spec
    events: Events
    stop: Stop
    policy: PeftModel
    by: Scorer
    snapshot: Data
    holdout: Data
    steps: int

    def progress(self, stage: str, done: int, of: int) -> None:
        """Say how far a stage is, and stop here when asked. Raises Stopped."""
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
    say(f"Loading the base and the adapter of v{spec.parent.number}")
    policy = model.policy_load(spec)
    read = partial(
        data.read,
        tokeniser=model.tokeniser_load(spec.base),
        max_tokens=min(spec.max_tokens, model.context(policy) or spec.max_tokens),
        vocabulary=model.vocabulary(policy),
        mask_special=spec.loss.mask_special,
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
        by=score.scorer(policy),
        snapshot=snapshot,
        holdout=holdout,
        steps=spec.epochs * data.steps_per_epoch(len(snapshot.triples), spec.batch_pairs),
    )


def _reference_scores(trainer: Trainer) -> Scores | None:
    """Return the reference's score of every completion, from the store or new; None for a loss without a reference."""
    spec = trainer.spec
    if spec.reference is None:
        return None
    began = time.monotonic()
    scores = reference.open_for(spec, spec.reference)
    made = reference.fill(
        scores,
        # Before its first step the policy is the parent, and the base where the adapter is left out.
        log_probs=partial(trainer.by.log_probs, adapter=spec.reference.kind == "parent"),
        triples=trainer.snapshot.triples + trainer.holdout.triples,
        budget=PACK_TOKENS,
        progress=partial(trainer.progress, "reference"),
    )
    seconds = round(time.monotonic() - began, 3)
    trainer.events.write("reference", **asdict(made), seconds=seconds)
    say(f"The reference ({spec.reference.kind}) scored {made.scored} completions anew, {seconds} s")
    return scores


def _train(
    trainer: Trainer,
    scores: Scores | None,
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
    trainer: Trainer, scores: Scores | None, optimizer: torch.optim.Optimizer, *, step: int
) -> dict[str, Any]:
    """Take one optimizer step and report it. Raises RoundFailed before it would break the weights."""
    spec, began = trainer.spec, time.monotonic()
    triples = trainer.snapshot.triples
    batch = data.batch(triples, step=step, batch_pairs=spec.batch_pairs, seed=spec.seed)
    rate = learning_rate(spec.optimizer, step=step, steps=trainer.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    scored = objective.batch_score(trainer.by, batch, scores, spec.loss, budget=PACK_TOKENS)
    weights = model.trainable(trainer.policy).values()
    norm = torch.nn.utils.clip_grad_norm_(weights, spec.optimizer.clip).item()
    measured = _summary(scored, f"Loss or gradient of step {step + 1} is", grad_norm=norm)
    optimizer.step()
    measured["learning_rate"] = rate
    seconds = time.monotonic() - began
    tokens, unshared = pack.size(batch), pack.size_unshared(batch)
    trainer.events.step(
        step + 1,
        trainer.steps,
        epoch=step // data.steps_per_epoch(len(triples), spec.batch_pairs) + 1,
        **measured,
        pairs=len(batch),
        tokens=tokens,
        tokens_saved=round(1 - tokens / unshared, 4),
        seconds=round(seconds, 3),
        tokens_per_s=round(tokens / seconds, 1),
    )
    say(
        f"Step {step + 1} of {trainer.steps}: loss {measured['loss']:.4f}, "
        f"margin {measured['margin']:.4f}, {seconds:.1f} s"
    )
    return measured


def _summary(scored: tuple[Pairs, Losses], what: str, **more: float) -> dict[str, Any]:
    """Return the numbers of a step or an evaluation. Raises RoundFailed when one is not finite."""
    measured = metrics.summary(*scored) | more
    if not all(value is None or math.isfinite(value) for value in measured.values()):
        raise RoundFailed("loss_not_finite", f"{what} not finite; lower the learning rate.")
    return measured


def _evaluate(trainer: Trainer, scores: Scores | None, *, step: int) -> dict[str, Any] | None:
    """Measure the policy on the held-out pairs; None when there are none."""
    triples = trainer.holdout.triples
    if not triples:
        return None
    done = 0

    def progress(pairs: int) -> None:
        nonlocal done
        done += pairs
        trainer.progress("evaluating", done, len(triples))

    progress(0)
    with torch.no_grad():
        scored = objective.batch_score(
            trainer.by, triples, scores, trainer.spec.loss, budget=PACK_TOKENS, each=progress
        )
    measured = _summary(scored, "The loss on held-out pairs is")
    measured |= metrics.accuracy_interval(scored[0], measured["accuracy"])
    trainer.events.write("eval", step=step, pairs=len(triples), **measured)
    return measured


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
            "reference": trainer.spec.reference and trainer.spec.reference.kind,
        },
    )
    version.write(
        trainer.folder / "version",
        policy=trainer.policy,
        by=trainer.by,
        spec=trainer.spec,
        report=report,
    )
    trainer.events.stage("saving", 1, 1)


def _dropped(trainer: Trainer) -> dict[str, int]:
    """Return the count of unusable triples by reason, those held out under reasons of their own."""
    held_out = {f"holdout_{reason}": count for reason, count in trainer.holdout.dropped.items()}
    return {**trainer.snapshot.dropped, **held_out}


def _seconds(saved: Checkpoint | None, began: float) -> float:
    """Return how long the round has taken, attempts before this one included."""
    earlier: float = saved.state["seconds"] if saved else 0.0
    return round(earlier + time.monotonic() - began, 3)
