"""What a served version answers to held-out prompts, measured against its parent and the base.

Three kinds of answers: greedy ones, to see what changed; several as labelers would get them, for length,
endings and variety; and one at temperature 1, because only those estimate a divergence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from models_registry.engine.types import Engine, EngineError, Sampling
from models_registry.models import ModelVersion
from pairloop.lib import jobs
from training import actions, queries
from training.models import Round

logger = logging.getLogger(__name__)

#: Answers of each prompt as labelers would get them.
ANSWERS = 3
#: Completions under way at once: what a vLLM of ours samples side by side.
SEQUENCES = 32
#: Changed answers that a round's page shows.
MOST_EXAMPLES = 12


def rounds_evaluate(*, now: Callable[[], datetime]) -> None:
    """Settle which version samples, then evaluate the rounds whose version is served. Never raises EngineError."""
    for model in registered.models_ready():
        actions.sampler_settle(model=model, now=now())
    waiting = queries.rounds_to_evaluate()
    if not waiting:
        return
    with jobs.alone("rounds-evaluate") as is_alone, serving.engine() as engine:
        if not is_alone or not engine.ready():
            return
        for round_ in waiting:
            try:
                _evaluate_when_served(round_, engine, now)
            except EngineError as error:
                # What it answered so far is stored; the next tick goes on from there.
                logger.warning("evaluation of %s stopped: %s", round_, error)


def _evaluate_when_served(round_: Round, engine: Engine, now: Callable[[], datetime]) -> None:
    version = round_.version
    if version is None:
        return
    if failure := registered.canary_failure(version):
        actions.round_unservable(round_=round_, why=failure)
        return
    if version.state == ModelVersion.State.CORRUPT:
        why = f"The files of {version} are not what was registered. Start the round again."
        actions.round_unservable(round_=round_, why=why)
        return
    if version.state == ModelVersion.State.VERIFIED and version.served_name in engine.models():
        evaluation = evaluate(round_=round_, version=version, engine=engine)
        actions.round_evaluated(round_=round_, evaluation=evaluation, now=now())


def evaluate(*, round_: Round, version: ModelVersion, engine: Engine) -> dict[str, Any]:
    """Ask the version, its parent and the base the same held-out prompts and compare. Raises EngineError."""
    began = time.monotonic()
    prompts = judging.prompts_held_out(round_.model, limit=settings.EVALUATION_PROMPTS)
    base = registered.version_numbered(model=round_.model, number=0)
    policy = judging.policy_of(round_.model)
    as_judged = Sampling(
        temperature=policy.temperature,
        top_p=policy.top_p,
        max_tokens=policy.max_tokens,
        n=ANSWERS,
        seed=0,
    )
    greedy = replace(as_judged, temperature=0.0, top_p=1.0, n=1)
    at_one = replace(as_judged, temperature=1.0, top_p=1.0, n=1)
    asked: dict[int, dict[str, Answers]] = {}
    for one in {base.pk: base, round_.parent.pk: round_.parent, version.pk: version}.values():
        asked[one.pk] = {
            "as_judged": _answers(engine, one, prompts, as_judged),
            "greedy": _answers(engine, one, prompts, greedy),
        }
    drawn = _answers(engine, version, prompts, at_one)
    before, after = asked[round_.parent.pk]["greedy"], asked[version.pk]["greedy"]
    return {
        "prompts": len(prompts),
        **compared(before, after),
        "kl_base": _divergence(engine, version, base, drawn),
        "version": measured(asked[version.pk]["as_judged"]),
        "parent": measured(asked[round_.parent.pk]["as_judged"]),
        "base": measured(asked[base.pk]["as_judged"]),
        "seconds": round(time.monotonic() - began, 1),
    }


#: Prompt id -> its completions.
Answers = dict[int, list[Completion]]


def _answers(
    engine: Engine, version: ModelVersion, prompts: Sequence[Prompt], sampling: Sampling
) -> Answers:
    """Return every prompt's answers, from the database where an earlier evaluation left them."""
    have = judging.completions_of_evaluation(version=version, prompts=prompts, sampling=sampling)
    missing = [prompt for prompt in prompts if prompt.pk not in have]

    def ask(prompt: Prompt) -> tuple[Prompt, Any]:
        return prompt, engine.sample(
            model=version.served_name, messages=prompt.messages, sampling=sampling
        )

    with ThreadPoolExecutor(max_workers=SEQUENCES // sampling.n) as pool:
        for prompt, sampled in pool.map(ask, missing):
            have[prompt.pk] = annotate.completions_of_evaluation_store(
                prompt=prompt, version=version, sampling=sampling, sampled=sampled
            )
    return have


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


@dataclass(frozen=True, slots=True)
class _Scored:
    """Log-probabilities of one answer's tokens under the version and the base."""

    version: tuple[float, ...]
    base: tuple[float, ...]


def _divergence(
    engine: Engine, version: ModelVersion, base: ModelVersion, drawn: Answers
) -> dict[str, Any]:
    """Estimate KL(version || base) per answer from the version's own answers at temperature 1."""
    answers = [completion for group in drawn.values() for completion in group]

    def score(completion: Completion) -> _Scored:
        ids = {
            "prompt_ids": completion.prompt_ids or [],
            "completion_ids": completion.completion_ids or [],
        }
        return _Scored(
            version=engine.score(model=version.served_name, **ids),
            base=engine.score(model=base.served_name, **ids),
        )

    with ThreadPoolExecutor(max_workers=settings.ENGINE_REQUESTS) as pool:
        scored = list(pool.map(score, answers))
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
