"""What pages, tasks and actions read about prompts, pairs and judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Count, Exists, F, Func, OuterRef, QuerySet, Sum
from django.utils import timezone

from annotate import shown, turns
from annotate.models import (
    Assignment,
    ComparisonDrop,
    Completion,
    Drop,
    Import,
    Judgement,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    SamplingState,
    Split,
    Tally,
    Verdict,
)
from models_registry import queries as registry
from models_registry.engine.types import Sampling
from models_registry.models import Comparison, ModelVersion, RegisteredModel
from models_registry.stats.evidence import Evidence
from pairloop.lib import jobs

#: As long as so many pairs wait, none are written while a round trains.
PAIRS_WHILE_TRAINING = 10
#: Answers of each prompt as labelers would get them.
ANSWERS = 3
#: Of one prompt's completions in one go; the policy's own bound.
MOST_PAIRS = 3
#: Nobody needs to know of more pairs that wait, and to count a million takes its time; a queue's target is no more.
MOST_COUNTED = 1_000
#: For each pair of a comparison, so many to train on should wait.
COMPARED_SHARE = 3


def policy_of(model: RegisteredModel) -> JudgingPolicy:
    """Return how pairs of this model are made and judged; the defaults until somebody sets them."""
    return JudgingPolicy.objects.filter(model=model).first() or JudgingPolicy(model=model)


def policy_loaded(assignment: Assignment) -> JudgingPolicy:
    """Return the policy that came with an assignment: no query."""
    model = assignment.pair.prompt.model
    return getattr(model, "judging_policy", None) or JudgingPolicy(model=model)


def assignment_with_pair(uuid: UUID) -> Assignment:
    """Return an assignment with all that is shown of it, and its model's policy. One query."""
    found = shown.assignment(uuid)
    if found is None:
        raise Assignment.DoesNotExist
    return found


def assignment_of(*, labeler: User, uuid: UUID) -> Assignment:
    """Return a labeler's own assignment, with its pair, of a model that they may still judge.

    Raises Assignment.DoesNotExist for any other. One query.
    """
    found = assignment_with_pair(uuid)
    # The rule of registry.models_of; the membership came along.
    may_judge = labeler.is_staff or found.is_of_member  # type: ignore[attr-defined]
    if found.labeler_id != labeler.pk or not may_judge:
        raise Assignment.DoesNotExist
    found.labeler = labeler
    return found


def facts_to_judge(*, labeler: User, slug: str, uuid: UUID) -> turns.Facts:
    """Return what recording a judgement depends on, of a labeler's own assignment of this model that they may judge.

    Raises Assignment.DoesNotExist for any other. One query.
    """
    found = turns.facts_of(uuid)
    may_judge = labeler.is_staff or found.is_of_member
    if found.labeler_id != labeler.pk or found.slug != slug or not may_judge:
        raise Assignment.DoesNotExist
    return found


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


def verdict_taken_back(assignment: Assignment) -> Verdict | None:
    """Return what the labeler said before they took it back; None while nothing is taken back.

    No query for an assignment that was read here.
    """
    verdicts = getattr(assignment, "verdicts_last", None)
    if verdicts is None:
        said = Judgement.objects.filter(assignment=assignment).order_by("-revision")
        verdicts = list(said.values_list("verdict", flat=True)[:2])
    match verdicts:
        case ["", before]:
            return Verdict(before)
        case _:
            return None


def sampling_state(model: RegisteredModel) -> SamplingState:
    """Return what the sampling of a model remembers; nothing yet until there is something."""
    return SamplingState.objects.filter(model=model).first() or SamplingState(model=model)


def sampling_count(model: RegisteredModel, split: Split) -> int:
    """Return how many prompts sampling goes through in turn, as they were last counted; at least 1."""
    state = sampling_state(model)
    known = state.train_prompts if split == Split.TRAIN else state.holdout_prompts
    return known or max(1, Prompt.objects.filter(model=model, split=split, refusal="").count())


def said_before(assignment: Assignment) -> Judgement | None:
    """Return what the labeler said last about a pair, whether it stands or was taken back.

    No query for an assignment that was read here and about which nothing was said.
    """
    if getattr(assignment, "verdicts_last", None) == []:
        return None
    said = Judgement.objects.filter(assignment=assignment).exclude(verdict="")
    return said.order_by("-revision").first()


def is_second_opinion(assignment: Assignment) -> bool:
    """Whether somebody else judged a pair that its labeler has not: the queue counts whoever judged it.

    No query for an assignment that was read here.
    """
    entry = _entry_of(assignment)
    return bool(entry and entry.opinions)


def is_own_prompt(assignment: Assignment) -> bool:
    """Whether the pair is kept for its labeler, who wrote the prompt. No query for an assignment that was read here."""
    entry = _entry_of(assignment)
    return bool(entry and entry.reserved_for_id == assignment.labeler_id)


def _entry_of(assignment: Assignment) -> QueueEntry | None:
    return getattr(assignment.pair, "queue_entry", None)


def eval_pairs_are_due(*, model: RegisteredModel, policy: JudgingPolicy) -> bool:
    """Return whether held-out pairs are below their share of the pairs that were sampled for a model lately."""
    state = sampling_state(model)
    sampled = state.eval_pairs + state.train_pairs
    return state.eval_pairs + 1 <= policy.eval_share * sampled


def _waiting(model: RegisteredModel) -> QuerySet[QueueEntry, QueueEntry]:
    """Select the pairs that wait and nobody has judged; those that want a further opinion wait for particular people."""
    return QueueEntry.objects.filter(
        model=model, wanted__gt=F("leased"), opinions=0, reserved_for=None
    )


def queue_length(model: RegisteredModel) -> int:
    """Return how many pairs wait that nobody has judged; MOST_COUNTED is "or more"."""
    return len(_waiting(model).values_list("pk", flat=True)[:MOST_COUNTED])


def pairs_missing(*, version: ModelVersion, target: int) -> int:
    """Return how many of a version's pairs the queue lacks. Looks at no more entries than it should have.

    Priorities of one version lie in a band of their own, in which a comparison's pairs are nobody's to train on.
    """
    waiting = _waiting(version.model).filter(
        priority__gt=(version.number - 1) * MOST_PAIRS,
        priority__lte=version.number * MOST_PAIRS,
        pair__first__version=version,
        pair__comparison=None,
    )
    # In the order of the index, or a plan for many rows would walk over those of other versions.
    in_order = waiting.order_by("-priority", "pk").values_list("pk", flat=True)
    return target - len(in_order[:target])


def top_up_can_wait(model: RegisteredModel) -> bool:
    """Whether a round trains just now and enough pairs wait meanwhile: two cores are not enough for both."""
    if not jobs.is_done_by_somebody(jobs.TRAINER):
        return False
    waiting = _waiting(model).values_list("pk", flat=True)[:PAIRS_WHILE_TRAINING]
    return len(waiting) == PAIRS_WHILE_TRAINING


def has_pairs(model: RegisteredModel) -> bool:
    """Whether a pair was ever made for this model, so that somebody could judge it."""
    return _pairs_sampled(model).exists()


def _pairs_sampled(model: RegisteredModel) -> QuerySet[Pair, Pair]:
    return Pair.objects.filter(prompt__model=model).exclude(arm=Pair.IMPORTED)


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
    """Return how many judgements of a labeler stand, in all and of the day that began then, and what waits.

    Two queries, which count nothing but the pairs that wait.
    """
    tally = Tally.objects.filter(model=model, labeler=labeler).first() or Tally()
    return JudgingProgress(
        today=tally.today if tally.day == timezone.localdate(since) else 0,
        in_all=tally.judged,
        waiting=queue_length(model),
    )


def judgements_count(model: RegisteredModel) -> int:
    """Return how many assignments of a model have a standing judgement."""
    return judgements_standing().filter(assignment__pair__prompt__model=model).count()


#: The classes of prompts that were asked equally often by the same version, each found through the index by
#: one step from the last; of each, the first in place. There are about as many classes as versions.
UNASKED = """
WITH RECURSIVE turn AS (
    (
        SELECT asked_by, asked FROM annotate_prompt
        WHERE model_id = %(model)s AND split = %(split)s AND refusal = ''
        ORDER BY asked_by, asked LIMIT 1
    )
    UNION ALL
    SELECT next.asked_by, next.asked FROM turn, LATERAL (
        SELECT asked_by, asked FROM annotate_prompt
        WHERE model_id = %(model)s AND split = %(split)s AND refusal = ''
            AND (asked_by, asked) > (turn.asked_by, turn.asked)
        ORDER BY asked_by, asked LIMIT 1
    ) next
)
SELECT first.id FROM turn, LATERAL (
    SELECT id, place FROM annotate_prompt
    WHERE model_id = %(model)s AND split = %(split)s AND refusal = ''
        AND asked_by = turn.asked_by AND asked = turn.asked
    ORDER BY place DESC LIMIT %(limit)s
) first
WHERE turn.asked_by <> %(version)s
ORDER BY first.place DESC LIMIT %(limit)s
"""


def prompts_to_sample(
    *, model: RegisteredModel, version: ModelVersion, split: Split, limit: int
) -> list[Prompt]:
    """Return the prompts that this version was asked least; of equals the latest import's, in random order.

    Whoever brought in prompts of their own wants to see them, not what was there before. What another version
    was asked counts as not asked. The work does not grow with the number of prompts.
    """
    which: dict[str, int | str] = {
        "model": model.pk,
        "split": split.value,
        "version": version.number,
        "limit": limit,
    }
    with connection.cursor() as cursor:
        cursor.execute(UNASKED, which)
        ids = [pk for (pk,) in cursor.fetchall()]
    asked = Prompt.objects.filter(
        model=model, split=split, refusal="", asked_by=version.number
    ).order_by("asked", "-place")
    ids += asked.values_list("pk", flat=True)[: limit - len(ids)]
    found = Prompt.objects.in_bulk(ids)
    return [found[pk] for pk in ids]


def prompts_held_out(model: RegisteredModel, *, limit: int) -> list[Prompt]:
    """Return the same held-out prompts every time, as long as none is added; chosen by their hash."""
    return list(held_out(model).order_by("sha256")[:limit])


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


def sampling_as_judged(policy: JudgingPolicy) -> Sampling:
    """Return how evaluations and comparisons draw answers as labelers would get them."""
    return Sampling(
        temperature=policy.temperature,
        top_p=policy.top_p,
        max_tokens=policy.max_tokens,
        n=ANSWERS,
        seed=0,
    )


def sampling_greedy(policy: JudgingPolicy) -> Sampling:
    """Return how evaluations draw the likeliest answer, which shows best what changed."""
    return replace(sampling_as_judged(policy), temperature=0.0, top_p=1.0, n=1)


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


# --- Comparisons ---------------------------------------------------------------------------------------


def held_out(model: RegisteredModel) -> QuerySet[Prompt, Prompt]:
    """Select the held-out prompts that the engine does not refuse."""
    return Prompt.objects.filter(model=model, split=Split.HOLDOUT, refusal="")


def held_out_count(model: RegisteredModel) -> int:
    """Return on how many prompts versions of a model can be compared."""
    return held_out(model).count()


def prompts_to_compare(comparison: Comparison) -> list[Prompt]:
    """Return the next prompts of a comparison: as many as its budget and the queue have room for.

    At most a third as many pairs wait as there should be to train on, or these would drown.
    """
    room = max(policy_of(comparison.model).queue_target // COMPARED_SHARE, 1)
    waiting = _unjudged(comparison).filter(wanted__gt=F("leased")).count()
    limit = min(room - waiting, comparison.budget - _compared_count(comparison))
    return list(_prompts_left(comparison)[: max(limit, 0)])


def comparison_is_spent(comparison: Comparison) -> bool:
    """Whether all prompts of a comparison are judged or left out, and no further one is to come."""
    if _unjudged(comparison).exists():
        return False
    used = _compared_count(comparison)
    return used >= comparison.budget or not _prompts_left(comparison).exists()


def _unjudged(comparison: Comparison) -> QuerySet[QueueEntry, QueueEntry]:
    """Select what waits of a comparison; a pair that wants one more opinion is judged."""
    return QueueEntry.objects.filter(pair__comparison=comparison, opinions=0)


def _compared_count(comparison: Comparison) -> int:
    pairs = Pair.objects.filter(comparison=comparison).count()
    return pairs + ComparisonDrop.objects.filter(comparison=comparison).count()


def _prompts_left(comparison: Comparison) -> QuerySet[Prompt, Prompt]:
    """Select the prompts that a comparison has not used, those of an evaluation first."""
    paired = Pair.objects.filter(comparison=comparison, prompt=OuterRef("pk"))
    left_out = ComparisonDrop.objects.filter(comparison=comparison, prompt=OuterRef("pk"))
    unused = held_out(comparison.model).filter(~Exists(paired), ~Exists(left_out))
    return unused.order_by("sha256")


def pairs_known(ids: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    """Return which of these ordered pairs of completion ids are pairs already."""
    rows = Pair.objects.filter(
        first__in=[one[0] for one in ids], second__in=[one[1] for one in ids]
    )
    return set(rows.values_list("first", "second"))


@dataclass(frozen=True, slots=True)
class ComparisonProgress:
    """How far the labelers are with a comparison."""

    judged: int
    waiting: int
    #: Reason in words -> prompts that were left out for it.
    left_out: dict[str, int]

    @property
    def done(self) -> int:
        """Prompts that nobody has to look at any more."""
        return self.judged + self.left_out_count

    @property
    def left_out_count(self) -> int:
        """Prompts that nobody has to judge."""
        return sum(self.left_out.values())


def comparison_progress(comparison: Comparison) -> ComparisonProgress:
    """Count what was judged, what waits and what was left out. Three queries."""
    waiting = _unjudged(comparison).count()
    drops = (
        ComparisonDrop.objects.filter(comparison=comparison)
        .values_list("reason")
        .annotate(Count("pk"))
    )
    return ComparisonProgress(
        judged=Pair.objects.filter(comparison=comparison).count() - waiting,
        waiting=waiting,
        left_out={ComparisonDrop.Reason(reason).label: n for reason, n in drops.order_by("reason")},
    )


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """A comparison, how far it is and what it proves."""

    comparison: Comparison
    progress: ComparisonProgress
    evidence: Evidence


def comparison_report(comparison: Comparison) -> ComparisonReport:
    """Gather what is known about a comparison. Five queries."""
    return ComparisonReport(
        comparison=comparison,
        progress=comparison_progress(comparison),
        evidence=registry.comparison_evidence(comparison),
    )


def pairs_compared(one: ModelVersion, other: ModelVersion) -> list[Pair]:
    """Return the pairs of all comparisons of two versions, the newest first, with prompt and answers."""
    both = [one, other]
    return list(
        Pair.objects.select_related("prompt", "first", "second")
        .filter(comparison__candidate__in=both, comparison__incumbent__in=both)
        .order_by("-pk")
    )


def judgements_on(pairs: Sequence[Pair]) -> dict[int, list[Judgement]]:
    """Return the standing judgements of pairs with who said it, by the pair's id, the oldest first."""
    found: dict[int, list[Judgement]] = {}
    rows = judgements_standing().select_related("assignment__labeler", "winner")
    for judgement in rows.filter(assignment__pair__in=pairs).order_by("pk"):
        found.setdefault(judgement.assignment.pair_id, []).append(judgement)
    return found


def prompts_unanswered(*, version: ModelVersion, sampling: Sampling) -> list[Prompt]:
    """Return the prompts of an evaluation that a version has not answered with this sampling."""
    prompts = prompts_held_out(version.model, limit=settings.EVALUATION_PROMPTS)
    known = completions_of_evaluation(version=version, prompts=prompts, sampling=sampling)
    return [prompt for prompt in prompts if prompt.pk not in known]


def answers_lock(candidate: ModelVersion, incumbent: ModelVersion) -> str:
    """Return the name under which the writing of two versions' answers waits in the queue."""
    return f"answers-{candidate.pk}-{incumbent.pk}"


def answers_are_coming(candidate: ModelVersion, incumbent: ModelVersion) -> bool:
    """Whether the engine was asked to write what two versions' answers lack, and has not ended yet."""
    return jobs.is_under_way(answers_lock(candidate, incumbent))


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


def import_lock(import_id: int) -> str:
    """Return the name under which one worker at a time runs an import."""
    return f"import-{import_id}"


def import_turn(model: RegisteredModel) -> str:
    """Return the name under which one transaction at a time imports into a model, prompts or pairs."""
    return f"imports-of-{model.pk}"


def imports_abandoned() -> list[int]:
    """Return the imports that are not over and that nobody runs."""
    open_ = Import.objects.filter(state__in=Import.OPEN).order_by("pk").values_list("pk", flat=True)
    return [pk for pk in open_ if not jobs.is_done_by_somebody(import_lock(pk))]


def import_of(*, model: RegisteredModel, import_id: int) -> Import:
    """Return a model's import; raises Import.DoesNotExist."""
    return Import.objects.select_related("model", "started_by").get(model=model, pk=import_id)


def imports_of(model: RegisteredModel, *, limit: int) -> list[Import]:
    """Return a model's newest imports, without the lines that they rejected."""
    rows = Import.objects.filter(model=model).select_related("started_by").defer("rejected")
    return list(rows.order_by("-pk")[:limit])


@dataclass(frozen=True, slots=True)
class PromptFilter:
    """Which prompts to list."""

    text: str = ""
    split: str = ""
    tag: str = ""
    #: Only those that the engine refused.
    is_set_aside: bool = False


def prompts_matching(model: RegisteredModel, wanted: PromptFilter) -> QuerySet[Prompt, Prompt]:
    """Select a model's prompts with their authors, the newest first."""
    found = Prompt.objects.filter(model=model).select_related("author")
    if wanted.text:
        found = found.filter(**{"messages__-1__content__icontains": wanted.text})
    if wanted.split:
        found = found.filter(split=wanted.split)
    if wanted.tag:
        found = found.filter(tags__contains=[wanted.tag])
    if wanted.is_set_aside:
        found = found.exclude(refusal="")
    return found.order_by("-pk")


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt, and what became of it."""

    prompt: Prompt
    pairs: int
    judgements: int


def prompt_rows(prompts: Sequence[Prompt]) -> list[PromptRow]:
    """Return the prompts with the number of their pairs and standing judgements."""
    pairs = Pair.objects.filter(prompt__in=prompts).values_list("prompt").annotate(n=Count("pk"))
    judgements = (
        judgements_standing()
        .filter(assignment__pair__prompt__in=prompts)
        .values_list("assignment__pair__prompt")
        .annotate(n=Count("pk"))
    )
    of_pairs, of_judgements = dict(pairs), dict(judgements)
    return [
        PromptRow(prompt, of_pairs.get(prompt.pk, 0), of_judgements.get(prompt.pk, 0))
        for prompt in prompts
    ]


def tags_of(model: RegisteredModel) -> list[str]:
    """Return the tags of a model's prompts."""
    tags = (
        Prompt.objects.filter(model=model)
        .exclude(tags=[])
        .values_list(Func("tags", function="unnest"))
    )
    return sorted({tag for (tag,) in tags.distinct()})
