"""What pages, tasks and actions read about prompts, pairs and judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Sum

from annotate.models import (
    Assignment,
    Completion,
    Drop,
    Judgement,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    Split,
    Verdict,
)
from models_registry import queries as registry
from models_registry.engine.types import Sampling
from models_registry.models import ModelVersion, RegisteredModel
from pairloop.lib import jobs

#: As long as so many pairs wait, none are written while a round trains.
PAIRS_WHILE_TRAINING = 10


def policy_of(model: RegisteredModel) -> JudgingPolicy:
    """Return how pairs of this model are made and judged; the defaults until somebody sets them."""
    return JudgingPolicy.objects.filter(model=model).first() or JudgingPolicy(model=model)


def assignment_with_pair(uuid: UUID) -> Assignment:
    """Return an assignment with all that is shown of it."""
    return _with_pair().get(uuid=uuid)


def assignment_of(*, labeler: User, uuid: UUID) -> Assignment:
    """Return a labeler's own assignment, with its pair, of a model that they may still judge.

    Raises Assignment.DoesNotExist for any other.
    """
    models = registry.models_of(labeler)
    return _with_pair().get(uuid=uuid, labeler=labeler, pair__prompt__model__in=models)


def _with_pair() -> QuerySet[Assignment, Assignment]:
    return Assignment.objects.select_related("pair__prompt__model", "pair__first", "pair__second")


def assignment_held(*, model: RegisteredModel, labeler: User, now: datetime) -> Assignment | None:
    """Return the open lease that a labeler holds on a pair of this model: what they took back comes first.

    Every undo opens a lease beside those that are open already, with a later end.
    """
    return (
        _with_pair()
        .filter(labeler=labeler, closed_at=None, expires_at__gt=now, pair__prompt__model=model)
        .order_by("-expires_at", "uuid")
        .first()
    )


def assignment_judged_last(*, model: RegisteredModel, labeler: User) -> Assignment | None:
    """Return what a labeler judged last and did not take back: what one undo takes back."""
    stands = judgements_standing().filter(assignment=OuterRef("pk"))
    return (
        Assignment.objects.filter(
            Exists(stands), labeler=labeler, closed_at__isnull=False, pair__prompt__model=model
        )
        .order_by("-closed_at", "uuid")
        .first()
    )


def judgement_last(assignment: Assignment) -> Judgement | None:
    """Return the latest revision of what was said, also when it takes back."""
    return Judgement.objects.filter(assignment=assignment).order_by("-revision").first()


def verdict_taken_back(assignment: Assignment) -> Verdict | None:
    """Return what the labeler said before they took it back; None while nothing is taken back."""
    verdicts = Judgement.objects.filter(assignment=assignment).order_by("-revision")
    match list(verdicts.values_list("verdict", flat=True)[:2]):
        case ["", before]:
            return Verdict(before)
        case _:
            return None


def recent_sides(labeler: User) -> list[bool]:
    """Return whether the first completion was on the left in a labeler's last ten assignments."""
    return list(
        Assignment.objects.filter(labeler=labeler)
        .order_by("-assigned_at", "uuid")
        .values_list("first_is_left", flat=True)[:10]
    )


def eval_pairs_are_due(*, model: RegisteredModel, policy: JudgingPolicy) -> bool:
    """Return whether held-out pairs are below their share of a model's pairs."""
    purposes = Pair.objects.filter(prompt__model=model).aggregate(
        evals=Count("pk", filter=Q(purpose=Pair.Purpose.EVAL)),
        trains=Count("pk", filter=Q(purpose=Pair.Purpose.TRAIN)),
    )
    evals, trains = purposes["evals"], purposes["trains"]
    return bool(evals + 1 <= policy.eval_share * (evals + trains))


def queue_length(model: RegisteredModel, *, version: ModelVersion | None = None) -> int:
    """Return how many pairs wait for somebody to judge them, of all versions or of one."""
    waiting = QueueEntry.objects.filter(model=model, wanted__gt=F("leased"))
    if version:
        waiting = waiting.filter(pair__first__version=version)
    return waiting.count()


def top_up_can_wait(model: RegisteredModel) -> bool:
    """Whether a round trains just now and enough pairs wait meanwhile: two cores are not enough for both."""
    return queue_length(model) >= PAIRS_WHILE_TRAINING and jobs.is_done_by_somebody(jobs.TRAINER)


def has_pairs(model: RegisteredModel) -> bool:
    """Whether a pair was ever made for this model."""
    return Pair.objects.filter(prompt__model=model).exists()


def judgements_standing() -> QuerySet[Judgement, Judgement]:
    """Select the judgements that count: the latest revision of each assignment, unless it takes back."""
    later = Judgement.objects.filter(
        assignment=OuterRef("assignment"), revision__gt=OuterRef("revision")
    )
    return Judgement.objects.filter(~Exists(later)).exclude(verdict="")


@dataclass(frozen=True, slots=True)
class JudgingProgress:
    """What a labeler has done, and what waits."""

    today: int
    in_all: int
    waiting: int


def judging_progress(*, model: RegisteredModel, labeler: User, since: datetime) -> JudgingProgress:
    """Count a labeler's standing judgements, in all and since a moment, and the pairs that wait."""
    counts = (
        judgements_standing()
        .filter(assignment__labeler=labeler, assignment__pair__prompt__model=model)
        .aggregate(in_all=Count("pk"), today=Count("pk", filter=Q(judged_at__gte=since)))
    )
    return JudgingProgress(
        today=counts["today"], in_all=counts["in_all"], waiting=queue_length(model)
    )


def judgements_count(model: RegisteredModel) -> int:
    """Return how many assignments of a model have a standing judgement."""
    return judgements_standing().filter(assignment__pair__prompt__model=model).count()


def prompts_to_sample(
    *, model: RegisteredModel, version: ModelVersion, split: Split, limit: int
) -> list[Prompt]:
    """Return the prompts that this version has answered least, in random order among equals."""
    answered = Count("completions", filter=Q(completions__version=version))
    return list(
        Prompt.objects.filter(model=model, split=split, refusal="")
        .annotate(answered=answered)
        .order_by("answered", "?")[:limit]
    )


def prompts_held_out(model: RegisteredModel, *, limit: int) -> list[Prompt]:
    """Return the same held-out prompts every time, as long as none is added; chosen by their hash."""
    held_out = Prompt.objects.filter(model=model, split=Split.HOLDOUT, refusal="")
    return list(held_out.order_by("sha256")[:limit])


def completions_of_evaluation(
    *, version: ModelVersion, prompts: Sequence[Prompt], sampling: Sampling
) -> dict[int, list[Completion]]:
    """Return what a version already answered in evaluations with this sampling, by prompt id."""
    found: dict[int, list[Completion]] = {}
    rows = Completion.objects.filter(
        version=version, prompt__in=prompts, sampling=evaluation_sampling(sampling)
    )
    for completion in rows.order_by("pk"):
        found.setdefault(completion.prompt_id, []).append(completion)
    return found


def sampling_kept(sampling: Sampling) -> dict[str, Any]:
    """Return what a completion keeps of how it was drawn; the seed has a column of its own."""
    drawn = asdict(sampling)
    del drawn["seed"]
    return drawn


def evaluation_sampling(sampling: Sampling) -> dict[str, Any]:
    """Return how an evaluation's completions are marked, so that a later one finds them."""
    return sampling_kept(sampling) | {"use": "evaluation"}


def prompts_of(model: RegisteredModel) -> QuerySet[Prompt, Prompt]:
    """Select a model's prompts, the newest first."""
    return Prompt.objects.filter(model=model).order_by("-id")


def judgements_of(model: RegisteredModel) -> QuerySet[Judgement, Judgement]:
    """Select a model's standing judgements with labeler and pair, the newest first."""
    return (
        judgements_standing()
        .select_related("assignment__labeler")
        .filter(assignment__pair__prompt__model=model)
        .order_by("-id")
    )


def prompt_counts(model: RegisteredModel) -> dict[str, int]:
    """Return the number of prompts on each side of the hold-out line."""
    rows = Prompt.objects.filter(model=model).values_list("split").annotate(n=Count("pk"))
    return dict.fromkeys(Split.values, 0) | dict(rows)


@dataclass(frozen=True, slots=True)
class DropCount:
    """How many completions of a model were not queued, for one reason."""

    reason: str
    label: str
    count: int


def drop_counts(model: RegisteredModel) -> list[DropCount]:
    """Return the reasons for which completions of a model were not queued, the commonest first."""
    rows = (
        Drop.objects.filter(version__model=model, count__gt=0)
        .values("reason")
        .annotate(n=Sum("count"))
        .order_by("-n", "reason")
    )
    return [
        DropCount(reason=row["reason"], label=Drop.Reason(row["reason"]).label, count=row["n"])
        for row in rows
    ]
