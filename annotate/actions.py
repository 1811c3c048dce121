"""Everything that is written about prompts, completions, pairs, assignments and judgements."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from annotate import prompts, queries, screening
from annotate.models import (
    Completion,
    Drop,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    Split,
)
from models_registry import queries as registry
from models_registry.engine.types import Engine, EngineError, EngineRejected, Sampled, Sampling
from models_registry.models import Alias, ModelVersion, RegisteredModel
from pairloop.lib import edits, jobs

logger = logging.getLogger(__name__)

#: Batches of one top-up; what is still missing then is left to the next one, seconds later.
MOST_BATCHES = 8
#: A prompt that no engine has a reason to refuse.
HARMLESS = [{"role": "user", "content": "Say hello."}]


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
def policy_change(*, model: RegisteredModel, values: Mapping[str, Any], seen: str) -> None:
    """Change how pairs of a model are made and judged; guidelines with another text get the next number.

    `seen` is the fingerprint of these fields as the editor saw them. Raises ChangedMeanwhile, SettingsInvalid.
    """
    JudgingPolicy.objects.get_or_create(model=model)
    policy = JudgingPolicy.objects.select_for_update().get(model=model)
    overlap = policy.overlap
    if edits.save(policy, values=values, seen=seen) and "guidelines" in values:
        policy.guidelines_version += 1
        policy.save(update_fields=["guidelines_version"])
    if policy.overlap != overlap:
        _overlap_apply(model, before=overlap, after=policy.overlap)


#: What waits wants as many judgements as a new pair would, but keeps a further opinion that was asked for. Open
#: leases keep their places. Entries are locked in order, as everybody does who locks several.
APPLY_OVERLAP = """
    WITH waiting AS (
        SELECT entry.pair_id, entry.leased, entry.opinions, entry.opinions + entry.wanted AS target
        FROM annotate_queueentry entry JOIN annotate_pair pair ON pair.id = entry.pair_id
        WHERE entry.model_id = %(model)s AND pair.purpose IN ('train', 'eval')
        ORDER BY entry.pair_id FOR UPDATE OF entry
    ), changed AS (
        SELECT pair_id, greatest(
            CASE WHEN target > %(before)s THEN greatest(target, %(after)s) ELSE %(after)s END - opinions, leased, 0
        ) AS wanted
        FROM waiting
    ), complete AS (
        DELETE FROM annotate_queueentry entry USING changed
        WHERE entry.pair_id = changed.pair_id AND changed.wanted = 0
    )
    UPDATE annotate_queueentry entry SET wanted = changed.wanted
    FROM changed WHERE entry.pair_id = changed.pair_id AND changed.wanted > 0
"""


def _overlap_apply(model: RegisteredModel, *, before: int, after: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(APPLY_OVERLAP, {"model": model.pk, "before": before, "after": after})


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
            priority=version.number * queries.MOST_PAIRS - rank,
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
