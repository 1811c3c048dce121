"""What pages, tasks and actions read about snapshots, rounds and attempts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Case, Count, Exists, Max, OuterRef, QuerySet, When
from django.db.models.functions import Now

from annotate import triples
from annotate.models import Completion, Pair
from models_registry.models import ModelVersion, RegisteredModel
from training import presets
from training.models import (
    AnswerScore,
    Round,
    RoundAttempt,
    RoundMetric,
    RoundPolicy,
    SnapshotItem,
)

#: Below this many held-out judgements a share says nothing, so none is shown.
LEAST_HOLDOUT = 30


def policy_of(model: RegisteredModel) -> RoundPolicy:
    """Return when and how rounds of this model run; the defaults until somebody sets them."""
    policy = RoundPolicy.objects.filter(model=model).first() or RoundPolicy()
    policy.model = model
    return policy


def policies_triggered() -> list[RoundPolicy]:
    """Return the policies that start rounds by themselves, of models without an unfinished one."""
    unfinished = Round.objects.filter(
        model=OuterRef("model"),
        state__in=Round.UNDER_WAY,
    )
    return list(
        RoundPolicy.objects.select_related("model")
        .filter(
            ~Exists(unfinished), trigger_triples__gt=0, model__state=RegisteredModel.State.READY
        )
        .order_by("model_id")
    )


def pairs_new(model: RegisteredModel, *, most: int = 0) -> QuerySet[Pair]:
    """Select the pairs with a triple that no successful round has trained on; all, or at most so many.

    Those that came from the engine go before those of a file, which may be many; among equals the oldest.
    """
    new = triples.triple_pairs(model=model).filter(~Exists(_consumed()))
    if not most:
        return new
    is_from_file = Case(When(arm=Pair.IMPORTED, then=1), default=0)
    return Pair.objects.filter(pk__in=new.order_by(is_from_file, "pk").values("pk")[:most])


def pairs_to_replay(model: RegisteredModel, *, most: int) -> QuerySet[Pair]:
    """Select the newest pairs that an earlier round has trained on."""
    old = triples.triple_pairs(model=model).filter(Exists(_consumed()))
    newest = old.order_by("-pk").values("pk")[:most]
    return Pair.objects.filter(pk__in=newest)


def pairs_rated(model: RegisteredModel, *, answers: Iterable[int]) -> QuerySet[Pair]:
    """Select the held-out pairs with a triple whose two answers are both among some."""
    held_out = triples.triple_pairs(model=model, purpose=Pair.Purpose.EVAL)
    ids = list(answers)
    return held_out.filter(first__in=ids, second__in=ids)


def answers_scored(version: ModelVersion) -> set[int]:
    """Return the ids of the completions whose score under a version is kept."""
    return set(AnswerScore.objects.filter(version=version).values_list("completion_id", flat=True))


def rewards_of(round_: Round) -> dict[int, float]:
    """Return the rewards of answers that a round's version was asked about, by the completion's id.

    β times the nats by which an answer is likelier to it than to the base; a mean over its tokens where the
    loss compared means.
    """
    if round_.version is None:
        return {}
    beta, per_token = beta_of(round_), is_per_token(round_)
    scores = AnswerScore.objects.filter(version=round_.version)
    return {
        completion: beta * log_ratio / (tokens if per_token else 1)
        for completion, log_ratio, tokens in scores.values_list(
            "completion_id", "log_ratio", "tokens"
        )
    }


def beta_of(round_: Round) -> float:
    """Return how strongly a round's loss held the version to its reference."""
    return float(round_.spec.get("loss", {}).get("beta", presets.PRESETS["paper"].beta))


def is_per_token(round_: Round) -> bool:
    """Whether a round's loss compared means over tokens and not sums."""
    return round_.spec.get("loss", {}).get("name") in presets.PER_TOKEN


def _consumed() -> QuerySet[SnapshotItem]:
    return SnapshotItem.objects.filter(
        pair=OuterRef("pk"), role=SnapshotItem.Role.NEW, is_consumed=True
    )


def pairs_held_out(model: RegisteredModel, *, most: int) -> QuerySet[Pair]:
    """Select the newest held-out pairs with a triple."""
    held_out = triples.triple_pairs(model=model, purpose=Pair.Purpose.EVAL)
    return Pair.objects.filter(pk__in=held_out.order_by("-pk").values("pk")[:most])


def triples_waiting(model: RegisteredModel) -> int:
    """Count the triples that no successful round has trained on."""
    return pairs_new(model).count()


def triples_spoilt(model: RegisteredModel) -> int:
    """Count the triples that waited for the last round, when it failed or was cancelled.

    The trigger waits for as many more: the same triples would fail again every minute.
    """
    last = round_last(model)
    if last is None or last.state not in {Round.State.FAILED, Round.State.CANCELLED}:
        return 0
    return _new_count(last) + last.snapshot.left_count


def next_number(model: RegisteredModel) -> int:
    """Return the number of a model's next round."""
    last = Round.objects.filter(model=model).aggregate(last=Max("number"))["last"]
    return (last or 0) + 1


def round_open(model: RegisteredModel) -> Round | None:
    """Return the round of a model that is queued or trains."""
    return Round.objects.filter(model=model, state__in=Round.OPEN).first()


def version_unconfirmed(model: RegisteredModel) -> ModelVersion | None:
    """Return the version of a finished training that no engine has confirmed yet."""
    return ModelVersion.objects.filter(
        model=model, state=ModelVersion.State.REGISTERED, made_by__state=Round.State.EVALUATING
    ).first()


def are_being_measured(*versions: ModelVersion) -> bool:
    """Whether one of these versions is asked the held-out prompts just now, or is about to be."""
    return Round.objects.filter(version__in=versions, state=Round.State.EVALUATING).exists()


def round_last(model: RegisteredModel) -> Round | None:
    """Return a model's newest round."""
    rounds = Round.objects.select_related("snapshot").filter(model=model)
    return rounds.order_by("-number").first()


def round_under_way(model: RegisteredModel) -> Round | None:
    """Return the newest round that somebody may be waiting for."""
    found = Round.objects.select_related("model").filter(model=model, state__in=Round.UNDER_WAY)
    return found.order_by("-number").first()


def round_of(*, model: RegisteredModel, number: int) -> Round:
    """Return a model's round by its number; raises Round.DoesNotExist."""
    return Round.objects.select_related(
        "model", "parent__model", "version__model", "snapshot", "started_by"
    ).get(model=model, number=number)


def rounds_of(model: RegisteredModel) -> QuerySet[Round]:
    """Select a model's rounds, the newest first."""
    return (
        Round.objects.filter(model=model)
        .select_related("model", "parent__model", "version__model", "snapshot", "started_by")
        .order_by("-number")
    )


def rounds_abandoned() -> list[Round]:
    """Return the rounds that should be under way and that nobody holds."""
    held = RoundAttempt.objects.filter(round=OuterRef("pk"), outcome="", lease_until__gt=Now())
    return list(Round.objects.filter(~Exists(held), state__in=Round.OPEN).order_by("pk"))


def rounds_to_evaluate() -> list[Round]:
    """Return the rounds whose version waits for its evaluation, the oldest first."""
    return list(
        Round.objects.select_related("model", "parent__model", "version__model")
        .filter(state=Round.State.EVALUATING)
        .order_by("pk")
    )


def attempt_last(round_: Round) -> RoundAttempt | None:
    """Return a round's newest attempt."""
    return round_.attempts.order_by("-number").first()


def earlier_attempts(attempt: RoundAttempt) -> list[RoundAttempt]:
    """Return a round's attempts before this one, the newest first."""
    return list(
        RoundAttempt.objects.select_related("round__model")
        .filter(round=attempt.round_id, number__lt=attempt.number)
        .order_by("-number")
    )


def metrics_of(round_: Round) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of every number that the trainer told, by name and in order."""
    found: dict[str, list[tuple[int, float]]] = {}
    rows = RoundMetric.objects.filter(round=round_).order_by("name", "step")
    for name, step, value in rows.values_list("name", "step", "value"):
        found.setdefault(name, []).append((step, value))
    return found


def steps_of(round_: Round) -> int:
    """Return how many steps a round has trained."""
    return RoundMetric.objects.filter(round=round_).aggregate(last=Max("step"))["last"] or 0


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out prompt with the parent's answer and the new version's."""

    prompt: str
    before: str
    after: str
    #: The new version's rewards of them; None where they were not scored.
    before_reward: float | None
    after_reward: float | None


def examples_of(round_: Round) -> list[Example]:
    """Return the changed answers that a round's evaluation points at."""
    rows: list[dict[str, int]] = round_.evaluation.get("examples", [])
    ids = [row[side] for row in rows for side in ("before", "after")]
    found = Completion.objects.select_related("prompt").in_bulk(ids)
    rewards = rewards_of(round_) if ids else {}
    return [
        Example(
            prompt=found[row["after"]].prompt.question,
            before=found[row["before"]].text,
            after=found[row["after"]].text,
            before_reward=rewards.get(row["before"]),
            after_reward=rewards.get(row["after"]),
        )
        for row in rows
        if row["before"] in found and row["after"] in found
    ]


def roles_of(round_: Round) -> dict[str, int]:
    """Count a snapshot's new and replayed triples."""
    new = _new_count(round_)
    return {"new": new, "replay": round_.snapshot.count - new}


def _new_count(round_: Round) -> int:
    new = SnapshotItem.objects.filter(snapshot=round_.snapshot_id, role=SnapshotItem.Role.NEW)
    return new.count()


def rounds_told(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Return rounds as the API shows them. Three queries, however many there are."""
    ids = [round_.pk for round_ in rounds]
    attempts = RoundAttempt.objects.filter(round__in=ids).order_by("round", "-number")
    last = {attempt.round_id: attempt for attempt in attempts.distinct("round")}
    items = SnapshotItem.objects.filter(
        snapshot__round__in=ids, role=SnapshotItem.Role.NEW
    ).values_list("snapshot__round")
    new = dict(items.annotate(n=Count("pk")))
    metrics: dict[int, dict[str, float]] = {}
    values = RoundMetric.objects.filter(round__in=ids).order_by("round", "name", "-step")
    for metric in values.distinct("round", "name"):
        metrics.setdefault(metric.round_id, {})[metric.name] = metric.value
    return [
        _told(
            round_,
            attempt=last.get(round_.pk),
            new=new.get(round_.pk, 0),
            metrics=metrics.get(round_.pk, {}),
        )
        for round_ in rounds
    ]


def _told(
    round_: Round, *, attempt: RoundAttempt | None, new: int, metrics: dict[str, float]
) -> dict[str, Any]:
    return {
        "number": round_.number,
        "state": round_.state,
        "stage": attempt.stage if attempt and round_.is_open else "",
        "progress": 1.0 if round_.version_id else attempt.progress if attempt else 0.0,
        "eta_s": attempt.eta_s if attempt and round_.is_open else None,
        "parent": round_.parent.number,
        "reference": round_.reference,
        "version": round_.version.number if round_.version else None,
        "triples": {"new": new, "replay": round_.snapshot.count - new},
        "metrics": metrics,
        "holdout": round_.holdout,
        "evaluation": round_.evaluation,
        "failure": (
            {"code": round_.failure_code, "detail": round_.failure} if round_.failure else None
        ),
        "started_by": round_.started_by.get_username() if round_.started_by else None,
        "created_at": round_.created_at,
        "ended_at": round_.ended_at,
    }


def rounds_of_pairs(pair_ids: list[int]) -> dict[int, int]:
    """Return the number of the round that learned from each pair, as far as there is one."""
    learned = SnapshotItem.objects.filter(
        pair__in=pair_ids, role=SnapshotItem.Role.NEW, is_consumed=True
    )
    return dict(learned.values_list("pair", "snapshot__round__number"))
