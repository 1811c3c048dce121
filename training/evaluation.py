"""What a served version answers to held-out prompts, measured against its parent and the base.

Three kinds of answers: greedy ones, to see what changed; several as labelers would get them, for length,
endings and variety; and one at temperature 1, because only those estimate a divergence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from math import exp
from statistics import fmean
from typing import Any

from django.conf import settings

from annotate import actions as annotate
from annotate import queries as judging
from annotate.models import Completion, Prompt
from models_registry import queries as registered
from models_registry import serving
from models_registry.engine.types import (
    Engine,
    EngineError,
    Sampling,
)
from models_registry.models import ModelVersion
from pairloop.lib import jobs
from training import actions, queries, rewards
from training.models import Round

logger = logging.getLogger(__name__)

#: Changed answers that a round's page shows.
MOST_EXAMPLES = 6


def rounds_evaluate(*, now: Callable[[], datetime]) -> None:
    """Settle which version samples, then evaluate the rounds whose version is served. Never raises EngineError."""
    for model in registered.models_ready():
        actions.sampler_settle(model=model, now=now())
    waiting = queries.rounds_to_evaluate()
    if not waiting:
        return
    with jobs.alone("rounds-evaluate") as is_alone:
        for round_ in waiting if is_alone else []:
            try:
                with serving.engine(serving.url_of(round_.model.slug)) as engine:
                    if engine.ready():
                        _evaluate_when_served(round_, engine, now)
            except EngineError as error:
                # What it answered so far is stored; the next tick goes on from there.
                logger.warning("evaluation of %s stopped: %s", round_, error)
            except Exception:
                # One round's trouble must not keep the others waiting.
                logger.exception("evaluation of a round failed")


def _evaluate_when_served(round_: Round, engine: Engine, now: Callable[[], datetime]) -> None:
    version = round_.version
    if version is None:
        return
    if failure := registered.canary_failure(version):
        actions.round_unservable(round_=round_, why=failure, now=now())
        return
    if version.state == ModelVersion.State.CORRUPT:
        why = f"The files of {version} are not what was registered. Start the round again."
        actions.round_unservable(round_=round_, why=why, now=now())
        return
    if version.state == ModelVersion.State.VERIFIED and version.served_name in engine.models():
        evaluation = evaluate(
            round_=round_,
            version=version,
            engine=engine,
            tell=lambda done, of: actions.evaluation_heard(round_=round_, done=done, of=of),
        )
        rewards.disagreements_tell(round_)
        actions.round_evaluated(round_=round_, evaluation=evaluation, now=now())


def evaluate(
    *,
    round_: Round,
    version: ModelVersion,
    engine: Engine,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Ask the version, its parent and the base the same held-out prompts and compare. Raises EngineError.

    `tell` hears how many answers of how many are there.
    """
    began = time.monotonic()
    prompts = judging.prompts_held_out(round_.model, limit=settings.EVALUATION_PROMPTS)
    base = registered.version_numbered(model=round_.model, number=0)
    parent = round_.parent
    policy = judging.policy_of(round_.model)
    as_judged, greedy = judging.sampling_as_judged(policy), judging.sampling_greedy(policy)
    at_one = replace(as_judged, temperature=1.0, top_p=1.0, n=1)
    questions = {
        Question(one, sampling): None
        for one in (version, parent, base)
        for sampling in (as_judged, greedy)
    } | {Question(version, at_one): None}
    asked = _answers(engine, list(questions), prompts, tell)
    changes = compared(asked[Question(parent, greedy)], asked[Question(version, greedy)])
    shown = [pk for example in changes["examples"] for pk in example.values()]
    rewards.answers_score(version=version, base=base, engine=engine, examples=shown)
    return {
        "prompts": len(prompts),
        **changes,
        "kl_base": _divergence(engine, version, base, asked[Question(version, at_one)]),
        "version": measured(asked[Question(version, as_judged)]),
        "parent": measured(asked[Question(parent, as_judged)]),
        "base": measured(asked[Question(base, as_judged)]),
        "seconds": round(time.monotonic() - began, 1),
    }


@dataclass(frozen=True, slots=True)
class Question:
    """Who is asked the prompts, and how."""

    version: ModelVersion
    sampling: Sampling


#: Prompt id -> its completions.
Answers = dict[int, list[Completion]]


def _answers(
    engine: Engine,
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    tell: Callable[[int, int], None],
) -> dict[Question, Answers]:
    """Return every question's answers, from the database where an earlier evaluation left them.

    All are asked at once: the longest answer of each would else keep the engine waiting alone.
    """
    asked = {
        question: judging.completions_of_evaluation(
            version=question.version, prompts=prompts, sampling=question.sampling
        )
        for question in questions
    }
    missing = [
        (question, prompt)
        for question in questions
        for prompt in prompts
        if prompt.pk not in asked[question]
    ]
    of = len(questions) * len(prompts)
    tell(of - len(missing), of)
    with ThreadPoolExecutor(max_workers=rewards.REQUESTS) as pool:
        futures = {
            pool.submit(
                engine.sample,
                model=question.version.served_name,
                messages=prompt.messages,
                sampling=question.sampling,
            ): (question, prompt)
            for question, prompt in missing
        }
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                question, prompt = futures[future]
                version, sampling = question.version, question.sampling
                sampled = annotate.answer_of(
                    future, prompt=prompt, version=version, engine=engine, sampling=sampling
                )
                # The round is measured without a prompt that the engine refuses.
                if sampled:
                    asked[question][prompt.pk] = annotate.completions_of_evaluation_store(
                        prompt=prompt, version=version, sampling=sampling, sampled=sampled
                    )
                tell(of - len(missing) + number, of)
        finally:
            # After an error, the rest is not asked for nothing.
            pool.shutdown(wait=True, cancel_futures=True)
    return asked


def compared(before: Answers, after: Answers) -> dict[str, Any]:
    """Count how many greedy answers changed, and point at some of them, the most changed length first."""
    both = [(before[prompt][0], after[prompt][0]) for prompt in sorted(before) if prompt in after]
    changed = [(old, new) for old, new in both if old.text != new.text]
    lengths = [(len(old.completion_ids or ()), len(new.completion_ids or ())) for old, new in both]
    shown = sorted(changed, key=lambda pair: -abs(len(pair[0].text) - len(pair[1].text)))[
        :MOST_EXAMPLES
    ]
    return {
        "changed": len(changed),
        "shorter": sum(new < old for old, new in lengths),
        "longer": sum(new > old for old, new in lengths),
        "examples": [{"before": old.pk, "after": new.pk} for old, new in shown],
    }


def measured(answers: Answers) -> dict[str, Any]:
    """Return mean length in tokens, share that ended by itself, and variety of the answers."""
    flat = [completion for group in answers.values() for completion in group]
    if not flat:
        return {"answers": 0, "tokens_mean": 0.0, "eos_rate": 0.0, "distinct2": 0.0}
    return {
        "answers": len(flat),
        "tokens_mean": round(fmean(len(one.completion_ids or ()) for one in flat), 2),
        "eos_rate": round(fmean(one.finish_reason == "stop" for one in flat), 4),
        "distinct2": round(distinct2(one.text for one in flat), 4),
    }


def distinct2(texts: Iterable[str]) -> float:
    """Return the share of two-word sequences that are different ones (Li et al. 2016, arXiv 1510.03055)."""
    pairs = [pair for text in texts for words in [text.split()] for pair in pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _divergence(
    engine: Engine, version: ModelVersion, base: ModelVersion, drawn: Answers
) -> dict[str, Any]:
    """Estimate KL(version || base) per answer from the version's own answers at temperature 1."""
    answers = [completion for group in drawn.values() for completion in group]
    scored = rewards.scored(engine, version=version, base=base, answers=answers)
    return divergence([(one.version, one.base) for one in scored])


def divergence(
    scored: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> dict[str, Any]:
    """Return two estimates of the divergence in nats per answer, from (version's, base's) log-probabilities.

    With u = log version - log base of a token, k1 is the mean over answers of sum(u), and k3 that of
    sum(exp(-u) - 1 + u), which is never negative (Schulman 2020, "Approximating KL divergence").
    """
    ratios = [[a - b for a, b in zip(own, other, strict=True)] for own, other in scored]
    if not ratios:
        return {"answers": 0, "k1": 0.0, "k3": 0.0}
    return {
        "answers": len(ratios),
        "k1": round(fmean(sum(row) for row in ratios), 4),
        # A token that the base finds impossible would overflow.
        "k3": round(fmean(sum(exp(min(-u, 50.0)) - 1 + u for u in row) for row in ratios), 4),
    }
