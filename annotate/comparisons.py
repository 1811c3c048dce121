"""Everything that is written about a comparison's prompts, answers and pairs."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from annotate import actions, queries, screening, tasks
from annotate.models import ComparisonDrop, Completion, Pair, Prompt, QueueEntry
from models_registry import actions as registry
from models_registry import queries as registered
from models_registry.engine.types import Engine, Sampled, Sampling
from models_registry.models import Alias, Comparison, ModelVersion, RegisteredModel
from pairloop.lib import jobs

logger = logging.getLogger(__name__)


def comparison_open(
    *,
    model: RegisteredModel,
    candidate: ModelVersion,
    incumbent: ModelVersion,
    budget: int,
    by: User,
) -> Comparison:
    """Ask the labelers to compare two versions on some of the held-out prompts. Raises Refused."""
    return registry.comparison_open(
        model=model,
        candidate=candidate,
        incumbent=incumbent,
        budget=budget,
        available=queries.held_out_count(model),
        by=by,
    )


def comparisons_settle(*, now: datetime) -> None:
    """End the comparisons that more judgements would not change, and free the queue of ended ones."""
    for model in registered.models_ready():
        for comparison in registered.comparisons_open(model):
            is_spent = queries.comparison_is_spent(comparison)
            registry.comparison_settle(comparison=comparison, is_spent=is_spent, now=now)
    ended = QueueEntry.objects.filter(leased=0, pair__purpose=Pair.Purpose.COMPARE)
    ended.exclude(pair__comparison__state=Comparison.State.OPEN).delete()


# --- Pairs ---------------------------------------------------------------------------------------------


def pairs_top_up(*, model: RegisteredModel, engine: Engine, chance: random.Random) -> int:
    """Queue some pairs of each open comparison that the engine serves; return how many. Raises EngineError.

    Level-triggered, like the top-up of pairs to train on. What an evaluation already answered is used.
    """
    opened = registered.comparisons_open(model)
    if not opened or queries.top_up_can_wait(model):
        return 0
    served = engine.models()
    done = 0
    for comparison in opened:
        versions = (comparison.candidate, comparison.incumbent)
        if all(registered.version_is_served(version, served) for version in versions):
            done += _top_up(comparison, engine, chance)
    return done


def _top_up(comparison: Comparison, engine: Engine, chance: random.Random) -> int:
    sampling = queries.sampling_as_judged(queries.policy_of(comparison.model))
    sampler = registered.version_of_alias(model=comparison.model, name=Alias.SAMPLER)
    prompts = queries.prompts_to_compare(comparison)
    versions = [comparison.candidate, comparison.incumbent]
    answers = {
        version: queries.completions_of_evaluation(
            version=version, prompts=prompts, sampling=sampling
        )
        for version in versions
    }
    missing = [
        (version, prompt)
        for version in versions
        for prompt in prompts
        if prompt.pk not in answers[version]
    ]
    for version, prompt, completions in _asked(engine, missing, sampling):
        answers[version][prompt.pk] = completions
    done = 0
    for prompt in prompts:
        both = [answers[version].get(prompt.pk, []) for version in versions]
        # A prompt that the engine refuses is set aside, and has no answer.
        if all(both):
            done += pair_store(
                comparison=comparison, prompt=prompt, candidates=both[0], incumbents=both[1],
                sampler=sampler, chance=chance,
            )  # fmt: skip
    return done


def _asked(
    engine: Engine, missing: Sequence[tuple[ModelVersion, Prompt]], sampling: Sampling
) -> Iterator[tuple[ModelVersion, Prompt, list[Completion]]]:
    """Ask the engine, store what it answers as an evaluation would, and yield it as it arrives."""
    with ThreadPoolExecutor(max_workers=settings.ENGINE_REQUESTS) as pool:
        futures = {
            pool.submit(
                engine.sample,
                model=version.served_name,
                messages=prompt.messages,
                sampling=sampling,
            ): (version, prompt)
            for version, prompt in missing
        }
        try:
            for future in as_completed(futures):
                version, prompt = futures[future]
                sampled: Sampled | None = actions.answer_of(
                    future, prompt=prompt, version=version, engine=engine, sampling=sampling
                )
                if sampled:
                    yield (
                        version,
                        prompt,
                        actions.completions_of_evaluation_store(
                            prompt=prompt, version=version, sampling=sampling, sampled=sampled
                        ),
                    )
        finally:
            # After an error, the rest is not asked for nothing.
            pool.shutdown(wait=True, cancel_futures=True)


@transaction.atomic
def pair_store(
    *,
    comparison: Comparison,
    prompt: Prompt,
    candidates: Sequence[Completion],
    incumbents: Sequence[Completion],
    sampler: ModelVersion,
    chance: random.Random,
) -> bool:
    """Queue one answer of each version as a pair, or keep why none is worth judging.

    Which of the two is the pair's first follows from their ids; which one a labeler sees on the left is
    tossed for each assignment, so neither tells who wrote it.
    """
    chosen = _choose(candidates, incumbents, chance)
    if isinstance(chosen, str):
        ComparisonDrop.objects.get_or_create(
            comparison=comparison, prompt=prompt, defaults={"reason": chosen}
        )
        return False
    first, second = sorted(chosen, key=lambda completion: completion.pk)
    pair = Pair.objects.create(
        prompt=prompt,
        prompt_split=prompt.split,
        first=first,
        second=second,
        purpose=Pair.Purpose.COMPARE,
        comparison=comparison,
        # Somewhere among the sampler's pairs, so that both kinds are judged in turn.
        priority=sampler.number * queries.MOST_PAIRS - chance.randrange(queries.MOST_PAIRS),
    )
    # More prompts prove more than more judgements of one.
    QueueEntry.objects.create(pair=pair, model_id=prompt.model_id, priority=pair.priority, wanted=1)
    return True


def _choose(
    candidates: Sequence[Completion], incumbents: Sequence[Completion], chance: random.Random
) -> tuple[Completion, Completion] | str:
    """Return an answer of each version at random, or the reason why no two are worth judging."""
    usable = []
    for answers in (candidates, incumbents):
        good = [one for one in answers if not screening.unusable(one)]
        if not good:
            return screening.unusable(answers[0])
        usable.append(good)
    options = list(itertools.product(*usable))
    chance.shuffle(options)
    different = [
        (one, other) for one, other in options if not screening.near_identical(one.text, other.text)
    ]
    if not different:
        return ComparisonDrop.Reason.NEAR_IDENTICAL
    used = queries.pairs_known([sorted((one.pk, other.pk)) for one, other in different])
    for one, other in different:
        if (min(one.pk, other.pk), max(one.pk, other.pk)) not in used:
            return one, other
    return ComparisonDrop.Reason.USED


# --- Answers side by side ------------------------------------------------------------------------------


def answers_ask(*, candidate: ModelVersion, incumbent: ModelVersion) -> None:
    """Let the engine write the answers that a look at two versions lacks; once, however often it is asked."""
    lock = queries.answers_lock(candidate, incumbent)
    jobs.defer_once(
        tasks.answers_write.configure(queueing_lock=lock),
        candidate_id=candidate.pk,
        incumbent_id=incumbent.pk,
    )


def answers_write(*, versions: Sequence[ModelVersion], engine: Engine) -> None:
    """Have versions give their likeliest answer to the prompts of an evaluation. Raises EngineError.

    What is there already is not asked again, and who is not served is passed over.
    """
    sampling = queries.sampling_greedy(queries.policy_of(versions[0].model))
    served = engine.models()
    missing = [
        (version, prompt)
        for version in versions
        if registered.version_is_served(version, served)
        for prompt in queries.prompts_unanswered(version=version, sampling=sampling)
    ]
    for version, prompt, _ in _asked(engine, missing, sampling):
        logger.info("%s answered %s", version, prompt)
