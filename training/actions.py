"""Everything that is written about snapshots, rounds and attempts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from annotate import triples
from annotate.models import Completion, Pair
from models_registry import actions as registry
from models_registry import queries as registered
from models_registry import tasks as registry_tasks
from models_registry.engine.types import CONTEXT_LENGTH
from models_registry.models import LORA_TARGET_MODULES, Alias, ModelVersion, RegisteredModel
from models_registry.store import Artifact
from pairloop.lib import edits, files, jobs
from pairloop.lib.errors import Refused
from training import guardrails, presets, queries, snapshots, tasks
from training.models import (
    AnswerScore,
    Reference,
    Round,
    RoundAttempt,
    RoundMetric,
    RoundPolicy,
    Snapshot,
    SnapshotItem,
)

logger = logging.getLogger(__name__)

CHECKPOINT_STEPS = 5
#: The trainer died this often without a word: somebody has to look.
MOST_FAILED_ATTEMPTS = 3
#: However they ended; a worker that is killed again and again must not go on for ever.
MOST_ATTEMPTS = 20
#: Held-out triples that a round is measured on, the newest ones; each is scored three times.
MOST_HOLDOUT = 200


class RoundOpen(Refused):
    """A round of this model is under way. Wait until it ends, or cancel it."""

    code = "round_open"


class NoTriples(Refused):
    """There is nothing new to train on. Judge some pairs first."""

    code = "no_triples"


class ModelNotReady(Refused):
    """This model is not ready yet; its base is still being prepared."""

    code = "model_not_ready"


class AdapterUnsupported(Refused):
    """vLLM cannot load an adapter with these settings."""

    code = "adapter_unsupported"


class RoundInvalid(Refused):
    """The round's settings are not valid."""

    code = "round_invalid"


class RoundEnded(Refused):
    """This round has ended, so there is nothing to cancel."""

    code = "round_ended"


class LeaseLost(Refused):
    """Somebody else has this round by now; what was made is thrown away."""

    code = "lease_lost"


# --- Starting ------------------------------------------------------------------------------------------


def round_start(
    *,
    model: RegisteredModel,
    by: User | None,
    now: datetime,
    overrides: Mapping[str, Any] | None = None,
    least_new: int = 1,
) -> Round:
    """Freeze the triples and queue a round on them; row and job appear together.

    `overrides` are fields of RoundPolicy for this round only. Locks the model's row, so of several at once
    one starts and the others are refused. Raises Refused when fewer than `least_new` triples wait.
    """
    with transaction.atomic():
        locked = RegisteredModel.objects.select_for_update(no_key=True).get(pk=model.pk)
        _startable(locked)
        policy = _policy_for(locked, overrides or {})
        parent = registered.version_of_alias(model=locked, name=Alias.SAMPLER)
        number = queries.next_number(locked)
        snapshot = snapshot_take(
            model=locked,
            number=number,
            replay_share=policy.replay_share,
            least_new=least_new,
            most_new=policy.most_new,
        )
        round_ = Round.objects.create(
            model=locked,
            number=number,
            parent=parent,
            snapshot=snapshot,
            reference=policy.reference,
            spec=_spec(policy, seed=number),
            started_by=by,
            created_at=now,
        )
        tasks.round_defer(round_.pk)
    return round_


def _startable(model: RegisteredModel) -> None:
    """Refuse what cannot be trained, before anything is frozen."""
    if not model.is_ready:
        raise ModelNotReady
    open_ = queries.round_open(model)
    if open_:
        raise RoundOpen(
            f"Round {open_.number} of {model} is under way. Wait until it ends, or cancel it."
        )
    loading = queries.version_unconfirmed(model)
    if loading:
        raise RoundOpen(
            f"{loading.label} is being loaded into the engine. Wait until it is verified: the next round starts"
            " from it."
        )
    unknown = sorted(set(model.lora_target_modules) - set(LORA_TARGET_MODULES))
    if unknown or not model.lora_target_modules:
        raise AdapterUnsupported(
            f"vLLM cannot load an adapter on {', '.join(unknown) or 'no layer at all'}; register the model"
            " with linear layers of its blocks only."
        )


def _policy_for(model: RegisteredModel, overrides: Mapping[str, Any]) -> RoundPolicy:
    """Return the model's policy with this round's wishes, unsaved and checked. Raises RoundInvalid."""
    policy = queries.policy_of(model)
    known = {
        "preset", "beta", "learning_rate", "epochs", "batch_pairs", "reference", "replay_share", "ties",
        "most_new",
    }  # fmt: skip
    if overrides.get("preset", policy.preset) != policy.preset:
        # β means something else in another loss, so the policy's is no good for this round.
        policy.beta = None
    for name, value in overrides.items():
        if name not in known:
            raise RoundInvalid(
                f"{name} is no setting of a round; there are: {', '.join(sorted(known))}."
            )
        setattr(policy, name, value)
    try:
        policy.clean_fields(exclude=["model"])
        policy.clean()
        policy.validate_constraints(exclude=["model"])
    except ValidationError as error:
        raise RoundInvalid(" ".join(error.messages)) from error
    return policy


def _spec(policy: RoundPolicy, *, seed: int) -> dict[str, Any]:
    """Return what the trainer is told that does not depend on the machine."""
    model = policy.model
    longest = model.context_length or CONTEXT_LENGTH
    return {
        "lora": {
            "rank": model.lora_rank,
            "alpha": model.lora_alpha,
            "target_modules": list(model.lora_target_modules),
        },
        "loss": presets.loss_of(policy.preset, beta=policy.beta, ties=policy.ties),
        "optimizer": {
            "learning_rate": policy.learning_rate,
            "weight_decay": 0.0,
            "warmup": 0.1,
            "clip": 1.0,
        },
        "epochs": policy.epochs,
        "batch_pairs": policy.batch_pairs,
        "max_tokens": min(longest, CONTEXT_LENGTH),
        "seed": seed,
        "checkpoint_steps": CHECKPOINT_STEPS,
    }


def run_spec(round_: Round) -> dict[str, Any]:
    """Return the whole run.json of a round on this machine."""
    base = registered.version_numbered(model=round_.model, number=0)
    parent = round_.parent
    by_base = round_.reference == Reference.BASE
    return {
        "schema": 2,
        "round": {"model": round_.model.slug, "number": round_.number},
        "base": {"path": str(settings.BASES / base.artifact_path), "sha256": base.sha256},
        "parent": {
            "path": None if parent.number == 0 else str(settings.VERSIONS / parent.artifact_path),
            "sha256": parent.sha256,
            "number": parent.number,
        },
        "reference": {
            "kind": round_.reference,
            "sha256": base.sha256 if by_base else parent.sha256,
        },
        "scores": str(settings.SCORES),
        "machine": {"threads": settings.TRAINER_THREADS, "nice": settings.TRAINER_NICE},
        **round_.spec,
    }


def snapshot_take(
    *,
    model: RegisteredModel,
    number: int,
    replay_share: float,
    least_new: int = 1,
    most_new: int = 0,
) -> Snapshot:
    """Freeze the new triples, replayed ones up to their share, and the held-out ones beside them.

    Of more than `most_new` new ones the oldest are taken, and the rest waits for the next round; 0: all are.
    Call it inside a transaction. The files are written first; a transaction that fails leaves them to be
    overwritten by the next round of that number. Raises NoTriples when fewer than `least_new` wait.
    """
    waiting = queries.triples_waiting(model)
    new = _lines(queries.pairs_new(model, most=most_new), SnapshotItem.Role.NEW)
    if not new or waiting < least_new:
        raise NoTriples
    most = round(len(new) * replay_share / (1 - replay_share))
    old = _lines(queries.pairs_to_replay(model, most=most), SnapshotItem.Role.REPLAY)
    held_out = _lines(queries.pairs_held_out(model, most=MOST_HOLDOUT), "holdout")
    lines = [*new, *old]
    folder = files.private_folder(round_folder(model.slug, number))
    text = snapshots.file_text(lines)
    files.write_atomic(folder / "snapshot.jsonl", text, mode=0o444)
    files.write_atomic(folder / "holdout.jsonl", snapshots.file_text(held_out), mode=0o444)
    snapshot = Snapshot.objects.create(
        model=model,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        count=len(lines),
        holdout_count=len(held_out),
        # A judgement may have come between the two statements.
        left_count=max(0, waiting - len(new)),
        path=str(folder.relative_to(settings.ROUNDS)),
    )
    SnapshotItem.objects.bulk_create((_item(snapshot, line) for line in lines), batch_size=1000)
    return snapshot


def round_folder(slug: str, number: int) -> Path:
    """Return the folder of a round's snapshot and attempts."""
    return Path(settings.ROUNDS) / slug / str(number)


def _lines(pairs: QuerySet[Pair, Pair], role: str) -> list[snapshots.Line]:
    return [snapshots.line_of(triple, role=role) for triple in triples.triples_of(pairs)]


def _item(snapshot: Snapshot, line: snapshots.Line) -> SnapshotItem:
    triple = line.triple
    return SnapshotItem(
        snapshot=snapshot,
        pair_id=triple.pair_id,
        prompt_id=triple.prompt_id,
        chosen_id=triple.chosen.completion_id,
        rejected_id=triple.rejected.completion_id,
        target=triple.target,
        weight=triple.weight,
        role=line.role,
        judgement_ids=triple.judgement_ids,
        sha256=line.sha256,
    )


def rounds_due(*, now: datetime) -> list[Round]:
    """Start a round for every model whose new triples have reached its trigger.

    Level-triggered: it looks at what is there now, so a tick that was missed is caught up by the next.
    """
    started = []
    for policy in queries.policies_triggered():
        least = policy.trigger_triples + queries.triples_spoilt(policy.model)
        if queries.triples_waiting(policy.model) < least:
            continue
        try:
            started.append(round_start(model=policy.model, by=None, now=now, least_new=least))
        except Refused:
            continue  # Somebody was faster, or it is not ready; the next minute looks again.
    return started


@transaction.atomic
def policy_change(
    *, model: RegisteredModel, values: Mapping[str, Any], seen: str, now: datetime
) -> None:
    """Change when and how rounds of a model run; another sampler policy settles at once.

    `seen` is the fingerprint of these fields as the editor saw them. Raises ChangedMeanwhile, SettingsInvalid.
    """
    RoundPolicy.objects.get_or_create(model=model)
    policy = RoundPolicy.objects.select_for_update().get(model=model)
    if edits.save(policy, values=values, seen=seen) and "sampler" in values:
        sampler_settle(model=model, now=now)


def round_cancel(*, round_: Round, now: datetime) -> None:
    """End a round that still trains; its triples are free again, and its trainer stops within seconds."""
    with transaction.atomic():
        ended = Round.objects.filter(pk=round_.pk, state__in=Round.OPEN).update(
            state=Round.State.CANCELLED, ended_at=now
        )
        if not ended:
            if Round.objects.filter(pk=round_.pk, state=Round.State.EVALUATING).exists():
                raise RoundEnded(
                    "Its version is registered already and is only being measured; there is nothing to cancel."
                )
            raise RoundEnded
        RoundAttempt.objects.filter(round=round_, outcome="").update(
            outcome=RoundAttempt.Outcome.CANCELLED, ended_at=now
        )


# --- Attempts ------------------------------------------------------------------------------------------


@transaction.atomic
def attempt_begin(*, round_id: int, worker: str) -> RoundAttempt | None:
    """Take a round for one try at it; None when it has ended or somebody else holds it.

    Locks the round's row. Whose lease has run out has lost it, by the database's clock.
    """
    round_ = Round.objects.select_for_update().filter(pk=round_id).first()
    if round_ is None or not round_.is_open:
        return None
    open_ = round_.attempts.filter(outcome="")
    open_.filter(lease_until__lte=Now()).update(
        outcome=RoundAttempt.Outcome.LOST, ended_at=Now(), failure="Its worker went silent."
    )
    if open_.exists():
        return None
    tried = round_.attempts.count()
    if tried >= MOST_ATTEMPTS:
        _round_fail(
            round_.pk, code="too_many_attempts", why=f"It was begun {tried} times and never ended."
        )
        return None
    Round.objects.filter(pk=round_.pk).update(state=Round.State.RUNNING)
    attempt = RoundAttempt.objects.create(
        round=round_, number=tried + 1, lease_until=_lease(), worker=worker, stage="loading"
    )
    return RoundAttempt.objects.select_related(
        "round__model", "round__parent", "round__snapshot"
    ).get(pk=attempt.pk)


def attempt_heard(
    *,
    attempt: RoundAttempt,
    metrics: Sequence[tuple[int, str, float]] = (),
    **fields: Any,
) -> bool:
    """Renew the lease and note how far the trainer is; False when the lease is lost or the round ended."""
    renewed = _held(attempt).update(lease_until=_lease(), heard_at=Now(), **fields)
    if renewed and metrics:
        RoundMetric.objects.bulk_create(
            (
                RoundMetric(round_id=attempt.round_id, step=step, name=name, value=value)
                for step, name, value in _latest(metrics)
            ),
            update_conflicts=True,
            unique_fields=["round", "step", "name"],
            update_fields=["value"],
        )
    return bool(renewed)


def attempt_lose(*, attempt: RoundAttempt, why: str) -> None:
    """Give a round back before the lease ends: another worker may go on from the last checkpoint."""
    _held(attempt).update(outcome=RoundAttempt.Outcome.LOST, ended_at=Now(), failure=why)


def attempts_abandon(*, why: str) -> int:
    """End every attempt under way, whoever holds it; the sweep queues their rounds anew. Return how many."""
    return RoundAttempt.objects.filter(outcome="").update(
        outcome=RoundAttempt.Outcome.LOST, ended_at=Now(), failure=why
    )


@transaction.atomic
def attempt_fail(*, attempt: RoundAttempt, why: str) -> None:
    """Note that the trainer died without a word; after the third time the round has failed."""
    _lock(attempt)
    failed = _held(attempt).update(outcome=RoundAttempt.Outcome.FAILED, ended_at=Now(), failure=why)
    if not failed:
        return
    failures = RoundAttempt.objects.filter(
        round=attempt.round_id, outcome=RoundAttempt.Outcome.FAILED
    ).count()
    if failures < MOST_FAILED_ATTEMPTS:
        tasks.round_defer(attempt.round_id)
    else:
        _round_fail(
            attempt.round_id,
            code="trainer_died",
            why=f"The trainer died {failures} times without saying why, last like this: {why}",
        )


@transaction.atomic
def round_fail(*, attempt: RoundAttempt, code: str, why: str) -> None:
    """End a round for a reason that the trainer named; trying again would end the same way."""
    _lock(attempt)
    if _held(attempt).update(outcome=RoundAttempt.Outcome.FAILED, ended_at=Now(), failure=why):
        _round_fail(attempt.round_id, code=code, why=why)


@transaction.atomic
def round_finish(
    *,
    attempt: RoundAttempt,
    artifact: Artifact,
    metrics: dict[str, Any],
    card: str,
    holdout: dict[str, Any],
    now: datetime,
) -> ModelVersion:
    """Register what an attempt made, and consume its triples. Raises LeaseLost, and then nothing happened.

    The attempt's token is the fence: whoever lost the lease updates no row.
    """
    _lock(attempt)
    published = _held(attempt).update(
        outcome=RoundAttempt.Outcome.PUBLISHED, ended_at=Now(), progress=1, eta_s=0, stage="done"
    )
    if not published:
        raise LeaseLost
    round_ = (
        Round.objects.select_for_update().select_related("model", "parent").get(pk=attempt.round_id)
    )
    version = registry.version_register(
        model=round_.model,
        parent=round_.parent,
        artifact=artifact,
        metrics=metrics,
        card=card,
        now=now,
    )
    if not Round.objects.filter(pk=round_.pk, state=Round.State.RUNNING).update(
        state=Round.State.EVALUATING, version=version, holdout=holdout
    ):
        raise LeaseLost
    SnapshotItem.objects.filter(snapshot=round_.snapshot_id, role=SnapshotItem.Role.NEW).update(
        is_consumed=True
    )
    jobs.defer_once(registry_tasks.engine_reconcile)
    return version


def rounds_sweep() -> int:
    """Queue the rounds that nobody is at: their worker died, or their job was lost. Return how many."""
    abandoned = queries.rounds_abandoned()
    for round_ in abandoned:
        tasks.round_defer(round_.pk)
    return len(abandoned)


def _lock(attempt: RoundAttempt) -> None:
    """Lock the round before its attempt, as everybody does."""
    Round.objects.select_for_update().get(pk=attempt.round_id)


def _held(attempt: RoundAttempt) -> Any:
    """Select the attempt as long as its lease lasts, by the database's clock alone."""
    return RoundAttempt.objects.filter(
        pk=attempt.pk, token=attempt.token, outcome="", lease_until__gt=Now()
    )


def _lease() -> Any:
    return Now() + timedelta(seconds=settings.LEASE_S)


def _round_fail(round_id: int, *, code: str, why: str) -> None:
    """End a round without success and free its triples."""
    ended = (
        Round.objects.filter(pk=round_id)
        .exclude(state__in=[Round.State.SUCCEEDED, Round.State.CANCELLED, Round.State.FAILED])
        .update(state=Round.State.FAILED, failure_code=code, failure=why, ended_at=Now())
    )
    if ended:
        SnapshotItem.objects.filter(snapshot__round=round_id).update(is_consumed=False)


def _latest(
    metrics: Sequence[tuple[int, str, float]],
) -> Iterable[tuple[int, str, float]]:
    """Keep the last number of each step and name: one statement cannot write a row twice."""
    return [(step, name, value) for (step, name), value in {m[:2]: m[2] for m in metrics}.items()]


# --- Afterwards ----------------------------------------------------------------------------------------


def evaluation_heard(*, round_: Round, done: int, of: int) -> None:
    """Note how many answers of an evaluation are there."""
    Round.objects.filter(pk=round_.pk, state=Round.State.EVALUATING).update(
        evaluation={"done": done, "of": of}
    )


def answer_score_store(
    *, version: ModelVersion, completion: Completion, log_ratio: float, tokens: int
) -> None:
    """Keep how much likelier an answer is to a version than to its base; what is kept already stays."""
    score = AnswerScore(version=version, completion=completion, log_ratio=log_ratio, tokens=tokens)
    AnswerScore.objects.bulk_create([score], ignore_conflicts=True)


@transaction.atomic
def round_evaluated(*, round_: Round, evaluation: dict[str, Any], now: datetime) -> None:
    """Keep what was measured on the served version, hold it against the guardrails and end the round."""
    checks = guardrails.checks(evaluation, _bounds(round_.model))
    evaluation["guardrails"] = [
        {"name": check.name, "value": check.value, "bound": check.bound, "is_kept": check.is_kept}
        for check in checks
    ]
    ended = Round.objects.filter(pk=round_.pk, state=Round.State.EVALUATING).update(
        state=Round.State.SUCCEEDED, evaluation=evaluation, ended_at=now
    )
    if not ended or round_.version is None:
        return
    registry.version_measured(
        version=round_.version,
        metrics={
            "evaluation": {
                key: evaluation[key] for key in ("prompts", "changed", "kl_base", "version")
            },
            "guardrails": {"failed": [check.name for check in checks if not check.is_kept]},
        },
    )
    sampler_settle(model=round_.model, now=now)


def _bounds(model: RegisteredModel) -> dict[str, float]:
    """Return a model's guardrails; the usual ones where somebody wrote nonsense past the form."""
    try:
        return guardrails.bounds_of(queries.policy_of(model).gate)
    except guardrails.BoundsInvalid as error:
        logger.error("the guardrails of %s are not used: %s", model, error)  # noqa: TRY400
        return guardrails.BOUNDS


@transaction.atomic
def round_unservable(*, round_: Round, why: str, now: datetime) -> None:
    """End a round whose version no engine serves as it was trained; its triples are free again.

    The version is retired with it: serving it later would train on its triples twice.
    """
    if round_.version:
        registry.version_retire(version=round_.version, now=now)
    _round_fail(round_.pk, code="canary_failed", why=why)


def sampler_settle(*, model: RegisteredModel, now: datetime) -> None:
    """Let the version sample that the model's policy wants."""
    registry.sampler_settle(model=model, policy=queries.policy_of(model).sampler, now=now)
