"""Everything that is written about prompts, completions, pairs, assignments and judgements."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from annotate import guidelines, prompts, queries, screening, tasks
from annotate.models import (
    DECIDED,
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
from models_registry import actions as versions
from models_registry import queries as registry
from models_registry.engine.types import Engine, EngineError, EngineRejected, Sampled, Sampling
from models_registry.models import Alias, ModelVersion, Outcome, RegisteredModel
from pairloop.lib import edits, jobs
from pairloop.lib.errors import Refused

logger = logging.getLogger(__name__)

#: Batches of one top-up; what is still missing then is left to the next one, seconds later.
MOST_BATCHES = 8
#: Of one prompt's completions in one go; the policy's own bound.
MOST_PAIRS = 3
#: A prompt that no engine has a reason to refuse.
HARMLESS = [{"role": "user", "content": "Say hello."}]
#: The left side is forced once it was used this much more, or less, often in a labeler's last ten.
SIDE_SLACK = 4


class QueueEmpty(Refused):
    """No pair waits for you right now."""

    code = "queue_empty"


class VerdictUnknown(Refused):
    """Choose one of the verdicts."""

    code = "verdict_unknown"


# --- Prompts -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ImportReport:
    """What became of the lines of an import."""

    created: int = 0
    duplicates: int = 0
    #: (line number, reason as a sentence)
    rejected: list[tuple[int, str]] = field(default_factory=list)


@transaction.atomic
def prompts_import(
    *,
    model: RegisteredModel,
    lines: Iterable[prompts.Numbered],
    tags: Sequence[str] = (),
    system: str = "",
) -> ImportReport:
    """Store the good lines and report the bad ones by number; the hash decides each prompt's split.

    Every prompt gets the tags; one without a system message gets this one.
    """
    share = queries.policy_of(model).holdout_share
    report = ImportReport()
    jobs.in_turn(queries.import_turn(model))
    known = set(Prompt.objects.filter(model=model).values_list("sha256", flat=True))
    new: list[Prompt] = []
    for number, raw in lines:
        try:
            line = prompts.parse(raw, tags=tags, system=system)
        except prompts.PromptRefused as refused:
            report.rejected.append((number, str(refused)))
            continue
        sha256 = line.sha256
        if sha256 in known:
            report.duplicates += 1
            continue
        known.add(sha256)
        split = Split.HOLDOUT if prompts.is_held_out(sha256, share=share) else Split.TRAIN
        new.append(
            Prompt(model=model, messages=line.messages, sha256=sha256, split=split, tags=line.tags)
        )
    Prompt.objects.bulk_create(new, batch_size=1000)
    report.created = len(new)
    return report


# --- Settings ------------------------------------------------------------------------------------------


@transaction.atomic
def policy_change(
    *, model: RegisteredModel, values: Mapping[str, Any], seen: str, by: User | None = None
) -> None:
    """Change how pairs of a model are made and judged; guidelines with another text get the next number.

    `seen` is the fingerprint of these fields as the editor saw them. Raises ChangedMeanwhile, SettingsInvalid.
    """
    JudgingPolicy.objects.get_or_create(model=model)
    policy = JudgingPolicy.objects.select_for_update().get(model=model)
    before = policy.guidelines
    if edits.save(policy, values=values, seen=seen) and policy.guidelines != before:
        guidelines.version_keep(policy, before=before, by=by, now=timezone.now())


# --- Sampling ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TopUp:
    """What one top-up did."""

    pairs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    drops: Counter[str] = field(default_factory=Counter)


def pairs_top_up(*, model: RegisteredModel, engine: Engine, chance: random.Random) -> TopUp:
    """Sample pairs from the sampler version until the queue has its target. Raises EngineError.

    Level-triggered: it looks at what is missing now, so it may run at any time and as often as one likes.
    The engine is called outside of any transaction; each prompt's answers are stored as they arrive.
    """
    policy = queries.policy_of(model)
    version = registry.version_of_alias(model=model, name=Alias.SAMPLER)
    done = TopUp()
    started = time.monotonic()
    for _ in range(MOST_BATCHES):
        batch = _next_batch(model=model, version=version, policy=policy)
        if not batch:
            break
        for prompt, sampling, sampled in _sample(
            engine=engine, version=version, policy=policy, batch=batch, chance=chance
        ):
            stored = sampled_store(
                prompt=prompt, version=version, policy=policy, sampling=sampling, sampled=sampled, chance=chance
            )  # fmt: skip
            done.pairs += stored.pairs
            done.tokens += stored.tokens
            done.drops += stored.drops
    done.seconds = time.monotonic() - started
    return done


def _next_batch(
    *, model: RegisteredModel, version: ModelVersion, policy: JudgingPolicy
) -> list[Prompt]:
    """Choose the prompts to sample next: none when enough pairs wait, only one at the very beginning.

    Asked anew for each batch: a round that started meanwhile gets the machine at once.
    """
    if queries.top_up_can_wait(model):
        return []
    # Pairs of older versions may still wait, but the newest one's weak spots are what people should see.
    missing = policy.queue_target - queries.queue_length(model, version=version)
    if missing <= 0:
        return []
    requests = -(-missing // policy.pairs_per_prompt)
    limit = min(settings.ENGINE_REQUESTS, requests)
    # Nobody should wait for a whole batch to see that the thing works.
    if not Completion.objects.filter(version=version).exists():
        limit = 1
    split = Split.HOLDOUT if queries.eval_pairs_are_due(model=model, policy=policy) else Split.TRAIN
    if split == Split.HOLDOUT:
        limit = 1
    return queries.prompts_to_sample(
        model=model, version=version, split=split, limit=limit
    ) or queries.prompts_to_sample(model=model, version=version, split=Split.TRAIN, limit=limit)


def _sample(
    *,
    engine: Engine,
    version: ModelVersion,
    policy: JudgingPolicy,
    batch: Sequence[Prompt],
    chance: random.Random,
) -> Iterator[tuple[Prompt, Sampling, Sampled]]:
    """Ask the engine for all prompts of a batch at once; yield the answers as they arrive."""
    with ThreadPoolExecutor(max_workers=len(batch)) as pool:
        asked = {}
        for prompt in batch:
            sampling = Sampling(
                temperature=policy.temperature,
                top_p=policy.top_p,
                max_tokens=policy.max_tokens,
                n=policy.samples,
                seed=chance.randrange(2**31),
            )
            future = pool.submit(
                engine.sample,
                model=version.served_name,
                messages=prompt.messages,
                sampling=sampling,
            )
            asked[future] = prompt, sampling
        failure: EngineError | None = None
        for future in as_completed(asked):
            prompt, sampling = asked[future]
            try:
                sampled = answer_of(
                    future, prompt=prompt, version=version, engine=engine, sampling=sampling
                )
            except EngineError as error:
                failure = failure or error
            else:
                if sampled:
                    yield prompt, sampling, sampled
        # Only now: the other answers of the batch were worth keeping.
        if failure:
            raise failure


def answer_of(
    answer: Future[Sampled],
    *,
    prompt: Prompt,
    version: ModelVersion,
    engine: Engine,
    sampling: Sampling,
) -> Sampled | None:
    """Return what the engine answered; None when it refused the prompt, which is then set aside.

    Asked again, such a prompt would stop everything else. Raises EngineError for whatever is not the
    prompt's fault: then the engine refuses the harmless one, too.
    """
    try:
        return answer.result()
    except EngineRejected as refused:
        engine.sample(model=version.served_name, messages=HARMLESS, sampling=replace(sampling, n=1))
        logger.warning("%s is set aside: %s", prompt, refused)
        Prompt.objects.filter(pk=prompt.pk).update(refusal=str(refused))
        return None


@transaction.atomic
def sampled_store(
    *,
    prompt: Prompt,
    version: ModelVersion,
    policy: JudgingPolicy,
    sampling: Sampling,
    sampled: Sampled,
    chance: random.Random,
) -> TopUp:
    """Store one prompt's completions, queue the pairs worth judging and count what was left out."""
    purpose = Pair.Purpose.TRAIN if prompt.split == Split.TRAIN else Pair.Purpose.EVAL
    most = policy.pairs_per_prompt if purpose == Pair.Purpose.TRAIN else 1
    screened = screening.screen(sampled.completions, most=most, chance=chance)
    drawn = queries.sampling_kept(sampling)
    completions = _completions(
        prompt=prompt, version=version, drawn=drawn, seed=sampling.seed, sampled=sampled
    )
    ids = [sorted((completions[one].pk, completions[other].pk)) for one, other in screened.pairs]
    pairs = Pair.objects.bulk_create(
        Pair(
            prompt=prompt,
            prompt_split=prompt.split,
            first_id=first,
            second_id=second,
            purpose=purpose,
            # The newest version first; of one version, first every prompt's first pair: two of one prompt
            # in a row tire, and colour each other.
            priority=version.number * MOST_PAIRS - rank,
        )
        for rank, (first, second) in enumerate(ids)
    )
    QueueEntry.objects.bulk_create(
        QueueEntry(
            pair=pair,
            model_id=prompt.model_id,
            priority=pair.priority,
            wanted=policy.overlap,
        )
        for pair in pairs
    )
    for reason, count in screened.drops.items():
        drop, _ = Drop.objects.get_or_create(version=version, reason=reason)
        Drop.objects.filter(pk=drop.pk).update(count=F("count") + count)
    tokens = sum(len(completion.token_ids) for completion in sampled.completions)
    return TopUp(pairs=len(pairs), tokens=tokens, drops=screened.drops)


def completions_of_evaluation_store(
    *, prompt: Prompt, version: ModelVersion, sampling: Sampling, sampled: Sampled
) -> list[Completion]:
    """Store what a version answered in an evaluation; nobody judges it, but a comparison may."""
    drawn = queries.evaluation_sampling(sampling)
    return _completions(
        prompt=prompt, version=version, drawn=drawn, seed=sampling.seed, sampled=sampled
    )


def _completions(
    *,
    prompt: Prompt,
    version: ModelVersion,
    drawn: dict[str, Any],
    seed: int | None,
    sampled: Sampled,
) -> list[Completion]:
    return Completion.objects.bulk_create(
        Completion(
            prompt=prompt,
            origin=Completion.Origin.ENGINE,
            version=version,
            # PostgreSQL cannot store NUL; the token ids stay exact.
            text=completion.text.replace("\x00", "\N{REPLACEMENT CHARACTER}"),
            prompt_ids=list(sampled.prompt_ids),
            completion_ids=list(completion.token_ids),
            finish_reason=completion.finish_reason,
            sampling=drawn,
            seed=seed,
        )
        for completion in sampled.completions
    )


# --- Judging -------------------------------------------------------------------------------------------


@transaction.atomic
def pair_assign(*, model: RegisteredModel, labeler: User, now: datetime) -> Assignment:
    """Lease the next pair to a labeler, or return the lease they already hold. Raises QueueEmpty.

    Locks one queue entry; SKIP LOCKED lets everybody else pass by it.
    """
    _lock_labeler(labeler.pk)
    held = queries.assignment_held(model=model, labeler=labeler, now=now)
    if held:
        return held
    entry = _next_entry(model=model, labeler=labeler)
    if entry is None:
        leases_release(model=model, now=now)
        entry = _next_entry(model=model, labeler=labeler)
    if entry is None:
        raise QueueEmpty
    QueueEntry.objects.filter(pk=entry.pk).update(leased=F("leased") + 1)
    lease = timedelta(minutes=queries.policy_of(model).lease_minutes)
    assignment, _ = Assignment.objects.update_or_create(
        pair_id=entry.pk,
        labeler=labeler,
        defaults={"expires_at": now + lease, "closed_at": None, "is_on_top": False},
        create_defaults={
            "first_is_left": _first_goes_left(labeler),
            "assigned_at": now,
            "expires_at": now + lease,
        },
    )
    return queries.assignment_with_pair(assignment.uuid)


def _lock_labeler(labeler_id: int) -> None:
    """Let one labeler assign, judge and undo one after the other, in however many tabs."""
    User.objects.select_for_update(no_key=True).get(pk=labeler_id)


def _next_entry(*, model: RegisteredModel, labeler: User) -> QueueEntry | None:
    """Lock the first free entry whose pair this labeler neither holds nor has judged."""
    judged = Exists(queries.judgements_standing().filter(assignment=OuterRef("pk")))
    mine = Assignment.objects.filter(
        Q(closed_at=None) | judged, pair=OuterRef("pair"), labeler=labeler
    )
    return (
        QueueEntry.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(~Exists(mine), model=model, wanted__gt=F("leased"))
        .order_by("-priority", "pair")
        .first()
    )


def _first_goes_left(labeler: User) -> bool:
    """Toss a coin, unless the labeler's last ten are lopsided already."""
    recent = queries.recent_sides(labeler)
    lead = sum(1 if first_is_left else -1 for first_is_left in recent)
    if abs(lead) >= SIDE_SLACK:
        return lead < 0
    return random.SystemRandom().random() < 0.5


@transaction.atomic
def leases_release(*, model: RegisteredModel, now: datetime) -> int:
    """Give the pairs of expired leases back to the queue; return how many."""
    return _leases_end(
        Assignment.objects.select_for_update(skip_locked=True, of=("self",)).filter(
            expires_at__lte=now, pair__prompt__model=model
        ),
        now=now,
    )


@transaction.atomic
def leases_give_back(*, labeler: User, now: datetime, model: RegisteredModel | None = None) -> int:
    """Give back what a labeler holds, of one model or of all, for somebody else to judge; return how many."""
    _lock_labeler(labeler.pk)
    held = Assignment.objects.select_for_update(of=("self",)).filter(labeler=labeler)
    return _leases_end(held.filter(pair__prompt__model=model) if model else held, now=now)


def _leases_end(leases: QuerySet[Assignment, Assignment], *, now: datetime) -> int:
    ended = list(leases.filter(closed_at=None).order_by("pair"))
    for assignment in ended:
        if assignment.is_on_top:
            continue
        QueueEntry.objects.filter(pk=assignment.pair_id, leased__gt=0).update(
            leased=F("leased") - 1
        )
    Assignment.objects.filter(pk__in=[assignment.pk for assignment in ended]).update(closed_at=now)
    return len(ended)


@transaction.atomic
def judgement_record(
    *,
    assignment: Assignment,
    verdict: str,
    now: datetime,
    reasons: Sequence[str] = (),
    note: str = "",
    active_ms: int = 0,
) -> tuple[Judgement, bool]:
    """Record what a labeler said; return it, and whether it is new: while one stands, it stays.

    Never refused for being late: then it counts on top of the overlap. Locks labeler and assignment.
    """
    if verdict not in Verdict.values:
        raise VerdictUnknown
    locked = _locked(assignment)
    last = queries.judgement_last(locked)
    if last and last.verdict:
        return last, False
    policy = queries.policy_of(assignment.pair.prompt.model)
    judgement = Judgement.objects.create(
        assignment=locked,
        revision=last.revision + 1 if last else 1,
        verdict=verdict,
        winner=_winner(assignment, verdict),
        reasons=list(reasons),
        note=note,
        active_ms=active_ms,
        guidelines_version=policy.guidelines_version,
        is_late=now > locked.expires_at,
        judged_at=now,
    )
    _outcome_record(assignment, judgement)
    _lease_close(locked, now=now)
    return judgement, True


@transaction.atomic
def judgement_undo(*, assignment: Assignment, now: datetime) -> None:
    """Take a standing judgement back and lease its labeler the pair again, with the same sides.

    A new revision says so: what a snapshot took from the old one stays in there. With nothing to take back
    it changes nothing. Locks labeler and assignment.
    """
    locked = _locked(assignment)
    last = queries.judgement_last(locked)
    if last is None or not last.verdict:
        return
    policy = queries.policy_of(assignment.pair.prompt.model)
    Judgement.objects.create(
        assignment=locked,
        revision=last.revision + 1,
        verdict="",
        guidelines_version=policy.guidelines_version,
        judged_at=now,
    )
    if locked.pair.comparison_id:
        versions.outcome_withdraw(source=locked.uuid, now=now)
    _lease_reopen(locked, until=now + timedelta(minutes=policy.lease_minutes))


def _locked(assignment: Assignment) -> Assignment:
    _lock_labeler(assignment.labeler_id)
    return (
        Assignment.objects.select_for_update(of=("self",))
        .select_related("pair__prompt")
        .get(pk=assignment.pk)
    )


def _lease_close(lease: Assignment, *, now: datetime) -> None:
    """End the lease of a pair that was judged. One that had ended before is none of the queue's."""
    lease.is_on_top = lease.is_on_top or lease.closed_at is not None
    lease.closed_at = now
    lease.save(update_fields=["is_on_top", "closed_at"])
    if lease.is_on_top:
        return
    QueueEntry.objects.filter(pk=lease.pair_id).update(
        leased=F("leased") - 1, wanted=F("wanted") - 1
    )
    QueueEntry.objects.filter(pk=lease.pair_id, wanted=0).delete()
    jobs.defer_once(tasks.pairs_top_up)


def _lease_reopen(lease: Assignment, *, until: datetime) -> None:
    """Give a pair that was judged back to the one who judged it, and to nobody else."""
    lease.closed_at = None
    lease.expires_at = until
    lease.save(update_fields=["closed_at", "expires_at"])
    if lease.is_on_top:
        return
    # Gone when the pair had all its judgements; locked, or it could go between these two statements.
    entry, _ = QueueEntry.objects.select_for_update().get_or_create(
        pair=lease.pair,
        defaults={
            "model_id": lease.pair.prompt.model_id, "priority": lease.pair.priority, "wanted": 0,
        },
    )  # fmt: skip
    QueueEntry.objects.filter(pk=entry.pk).update(leased=F("leased") + 1, wanted=F("wanted") + 1)


#: What a comparison makes of verdicts that prefer neither; one who cannot judge says nothing about it.
UNDECIDED = {Verdict.TIE: Outcome.Kind.TIE, Verdict.BOTH_BAD: Outcome.Kind.BOTH_BAD}


def _outcome_record(assignment: Assignment, judgement: Judgement) -> None:
    """Let a judgement of a comparison's pair count there."""
    comparison = assignment.pair.comparison
    if comparison is None or judgement.verdict == Verdict.CANNOT_JUDGE:
        return
    sides = {one.version_id: one for one in (assignment.left, assignment.right)}
    candidate, incumbent = sides[comparison.candidate_id], sides[comparison.incumbent_id]
    versions.outcome_record(
        comparison=comparison,
        source=assignment.uuid,
        labeler=assignment.labeler,
        kind=UNDECIDED.get(Verdict(judgement.verdict), Outcome.Kind.WIN),
        winner=judgement.winner.version if judgement.winner else None,
        judged=versions.Judged(
            prompt_key=assignment.pair.prompt.sha256,
            tags=assignment.pair.prompt.tags,
            candidate_left=candidate == assignment.left,
            candidate_tokens=len(candidate.completion_ids or ()),
            incumbent_tokens=len(incumbent.completion_ids or ()),
        ),
        now=judgement.judged_at,
    )


def _winner(assignment: Assignment, verdict: str) -> Completion | None:
    """Return the completion that a verdict prefers, by the sides as the labeler saw them."""
    if verdict not in DECIDED:
        return None
    return assignment.left if verdict in {Verdict.LEFT, Verdict.LEFT_MUCH} else assignment.right
