"""Pure parts of the benchmark of training: which pairs, how much arithmetic, which figures. Standard library only."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

from benchmarks.words import WORDS

#: A pair with its messages and `prompt_ids`, `chosen_ids`, `rejected_ids`.
Pair = dict[str, Any]
#: A pair's own ratio should be within this factor of the one asked for.
NEAR = 1.25
#: At most so many pairs of a prompt, as a round has them.
PER_PROMPT = 2
#: What the chat template adds to a prompt, about.
TEMPLATE_TOKENS = 30
#: Standard deviation of the logarithm of the sizes of made-up pairs.
SPREAD = 0.7
#: Multiplications and additions of a token per parameter: forward 2; back to the input 2, and none to the frozen weights.
BODY_TRAINED, BODY_READ = 4, 2
#: The adapter's own: the gradients of A and B take two products each. That it can be added to the weights once per step
#: makes its products in forward and back to the input avoidable, so they are not counted.
LORA_TRAINED = 4
#: What is to be reached for a ratio of about 3: figure -> (bound, whether it is a lower one).
BARS = {
    "vs_default": (5.0, True),
    "vs_default_cached": (6.5, True),
    "vs_tuned": (2.3, True),
    "memory": (1 / 5, False),
    "memory_tuned": (1 / 2, False),
    "curve": (1e-5, False),
    "roofline": (0.65, True),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One epoch of a trainer; seconds without loading and saving, MB at the peak, a loss per step."""

    seconds: float
    losses: tuple[float, ...]
    peak_mb: float


@dataclass(frozen=True, slots=True)
class OwnRun(Run):
    """One of ours: what it computed in its two parts, and the share of tokens that sharing prompts saved."""

    step_seconds: float
    step_tokens: int
    reference_seconds: float
    reference_tokens: int
    saved: float


@dataclass(frozen=True, slots=True)
class Scored:
    """Outputs that go through the head: in all steps, and in a pass over all different completions."""

    steps: int
    reference: int


@dataclass(frozen=True, slots=True)
class Compared:
    """All runs for one ratio."""

    ratio: float
    pairs: int
    default: Run
    tuned: Run
    first: tuple[OwnRun, ...]
    cached: tuple[OwnRun, ...]
    scored: Scored


# --- Pairs ----------------------------------------------------------------------------------------------


def budgets(ratios: Sequence[float], *, pairs: int, tokens: int) -> dict[float, float]:
    """Return how many tokens a pair may have on average, both sequences together, so that all have `tokens`.

    The ratio that the last line is about gets as much as two others, since its pairs must not all be short.
    """
    shares = {ratio: 1 + (ratio == headline(ratios)) for ratio in ratios}
    return {ratio: tokens * share / sum(shares.values()) / pairs for ratio, share in shares.items()}


def headline(ratios: Iterable[float]) -> float:
    """Return the ratio that the last line is about: the nearest to 3."""
    return min(ratios, key=lambda ratio: abs(math.log(ratio / 3)))


def generated(allowed: dict[float, float], *, pairs: int) -> Iterator[dict[str, Any]]:
    """Yield pairs of made-up words around each ratio of `allowed`, of so many tokens on average.

    Two per prompt, as many prompts as pairs are needed, one prompt in two with an earlier turn; sizes are log-normal, like
    those of real pairs.
    """
    chance = random.Random(0)

    def text(words: float) -> str:
        return " ".join(chance.choices(WORDS, k=max(1, round(words))))

    for ratio, tokens in allowed.items():
        places = [(number + 0.5) / pairs for number in range(pairs)]
        chance.shuffle(places)
        for number, place in enumerate(places):
            size = tokens * math.exp(SPREAD * NormalDist().inv_cdf(place) - SPREAD**2 / 2)
            answer = size / (2 * ratio + 2)
            asked = ratio * answer - TEMPLATE_TOKENS
            prompt = [{"role": "user", "content": text(asked)}]
            if number % 2 and asked > 2 * TEMPLATE_TOKENS:
                turns = (("user", asked / 3), ("assistant", asked / 3), ("user", asked / 3 - 10))
                prompt = [{"role": role, "content": text(words)} for role, words in turns]
            for share in (0.9, 1.05):
                chosen, rejected = (
                    [{"role": "assistant", "content": text(answer * part)}]
                    for part in (share, 2 - share)
                )
                yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def ratio_of(pairs: Sequence[Pair]) -> float:
    """Return r: prompt tokens to the mean completion's tokens."""
    prompts = sum(len(pair["prompt_ids"]) for pair in pairs)
    return 2 * prompts / sum(len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in pairs)


def tokens_of(pair: Pair) -> int:
    """Return how many tokens both sequences of a pair have, the prompt twice."""
    return (
        2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"])
    )  # fmt: skip


def select(pairs: Sequence[Pair], *, ratio: float, count: int, tokens: float) -> list[Pair]:
    """Return `count` pairs whose own ratio is near `ratio`, those of a prompt together. Raises ValueError when there are fewer.

    They are spread evenly over the sizes that such pairs have in the data, of which the largest are left out until a pair
    has `tokens` on average at most. Nothing is drawn by lot, and the order of the data does not matter.
    """
    different = list({_key(pair): pair for pair in pairs}.values())
    prompts = Counter(json.dumps(pair["prompt_ids"]) for pair in different)
    if sum(min(number, PER_PROMPT) for number in prompts.values()) < count:
        raise ValueError(
            f"{count} pairs are needed, at most {PER_PROMPT} of a prompt; the data has {len(different)} different "
            f"ones of {len(prompts)} prompts"
        )
    factor = NEAR
    while len(_flat(groups := _groups(different, ratio, factor))) < count:
        factor *= NEAR
    found = _spread(groups, count)
    while sum(map(tokens_of, found)) > tokens * count and len(_flat(groups[:-1])) >= count:
        groups = groups[:-1]
        found = _spread(groups, count)
    return found


def _groups(pairs: Sequence[Pair], ratio: float, factor: float) -> list[list[Pair]]:
    """Return the pairs near the ratio by prompt, PER_PROMPT of each at most; smallest first."""
    by_prompt: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (distance(pair, ratio), _key(pair))):
        if is_near(pair, ratio, factor):
            by_prompt.setdefault(json.dumps(pair["prompt_ids"]), []).append(pair)
    groups = [group[:PER_PROMPT] for group in by_prompt.values()]
    return sorted(groups, key=lambda group: (max(map(tokens_of, group)), _key(group[0])))


def _spread(groups: Sequence[list[Pair]], count: int) -> list[Pair]:
    """Return `count` pairs of groups that lie evenly among all, as few groups as suffice."""
    for number in range(1, len(groups) + 1):
        picked = [groups[int((place + 0.5) * len(groups) / number)] for place in range(number)]
        if len(_flat(picked)) >= count:
            # The last pair of the largest group may be one too many.
            return _flat(picked)[:count]
    raise ValueError("too few pairs")


def _flat(groups: Sequence[list[Pair]]) -> list[Pair]:
    return [pair for group in groups for pair in group]


def distance(pair: Pair, ratio: float) -> float:
    """Return how far the pair's own ratio is from another, as a logarithm."""
    return abs(math.log(ratio_of([pair]) / ratio))


def is_near(pair: Pair, ratio: float, factor: float = NEAR) -> bool:
    """Tell whether the pair's own ratio is within a factor of the one asked for."""
    # A hair more, since a product of factors is rounded.
    return distance(pair, ratio) <= math.log(factor) + 1e-9


def _key(pair: Pair) -> str:
    return json.dumps([pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"]])


# --- Arithmetic -----------------------------------------------------------------------------------------


def bound(ratio: float) -> float:
    """Return by how much computing a prompt once for both its completions can shorten a pair: (2r+2)/(r+2)."""
    return (2 * ratio + 2) / (ratio + 2)


def scored(steps: Sequence[Sequence[Pair]]) -> Scored:
    """Count the outputs that go through the head, those of equal completions of a step once."""

    def outputs(pairs: Sequence[Pair]) -> int:
        rows = {
            (tuple(pair["prompt_ids"]), tuple(pair[part]))
            for pair in pairs
            for part in ("chosen_ids", "rejected_ids")
        }
        return sum(len(completion) for _, completion in rows)

    return Scored(
        steps=sum(outputs(step) for step in steps),
        reference=outputs([pair for step in steps for pair in step]),
    )


def flops_trained(sizes: dict[str, int], *, tokens: int, outputs: int) -> int:
    """Return what steps over so many tokens and scored outputs need at least, without attention's quadratic part."""
    token = BODY_TRAINED * sizes["body"] + LORA_TRAINED * sizes["lora"]
    return tokens * token + outputs * BODY_TRAINED * sizes["head"]


def flops_read(sizes: dict[str, int], *, tokens: int, outputs: int) -> int:
    """Return what a forward pass under the base needs at least."""
    return BODY_READ * (tokens * sizes["body"] + outputs * sizes["head"])


def roofline(compared: Compared, sizes: dict[str, int], gflops: float) -> tuple[float, float]:
    """Return the share of the matrix speed `gflops` that the steps reach, and steps and reference pass together."""
    steps, whole = [], []
    for run in (*compared.first, *compared.cached):
        work = flops_trained(sizes, tokens=run.step_tokens, outputs=compared.scored.steps)
        steps.append(work / run.step_seconds)
        if run in compared.first:
            reading = flops_read(
                sizes, tokens=run.reference_tokens, outputs=compared.scored.reference
            )
            whole.append((work + reading) / run.seconds)
    return median(steps) / gflops / 1e9, median(whole) / gflops / 1e9


# --- Figures --------------------------------------------------------------------------------------------


def differences(run: Run, others: Sequence[Run]) -> list[float]:
    """Return how far the losses of `others` are from the run's at most, step by step. Raises ValueError."""
    return [
        max(abs(loss - mine) for loss in losses)
        for mine, *losses in zip(run.losses, *[other.losses for other in others], strict=True)
    ]


def figures(compared: Compared, share: float) -> dict[str, float]:
    """Return what the last line says; `share` is that of the roofline."""
    first = median(run.seconds for run in compared.first)
    cached = median(run.seconds for run in compared.cached)
    own = [*compared.first, *compared.cached]
    peak = max(run.peak_mb for run in own)
    return {
        "vs_default": compared.default.seconds / first,
        "vs_default_cached": compared.default.seconds / cached,
        "vs_tuned": compared.tuned.seconds / first,
        "memory": peak / compared.default.peak_mb,
        "memory_tuned": peak / compared.tuned.peak_mb,
        "curve": max(differences(compared.default, own)[:10]),
        "roofline": share,
    }


def last_line(found: dict[str, float]) -> str:
    """Return the figures as one line for machines."""
    shown = (
        f"{name}={value:.1e}" if name == "curve" else f"{name}={value:.2f}"
        for name, value in found.items()
    )
    return f"bench-train: {' '.join(shown)}"


def missed(found: dict[str, float]) -> list[str]:
    """Return a sentence for each figure that is not what it should be."""
    return [
        f"{name} is {found[name]:.3g}, to be {'at least' if lower else 'at most'} {value:g}"
        for name, (value, lower) in BARS.items()
        if (found[name] < value if lower else found[name] > value)
    ]


def table(compared: Compared, shares: tuple[float, float], gflops: float) -> str:
    """Return the comparison for people to read."""
    own = [*compared.first, *compared.cached]
    rows = (
        ("TRL, defaults", [compared.default]),
        ("TRL, tuned", [compared.tuned]),
        ("Pairloop, first epoch", compared.first),
        ("Pairloop, reference known", compared.cached),
    )
    lines = [f"{'':28}{'pairs/s':>9}{'(least to most)':>18}{'peak MB':>9}"]
    for name, runs in rows:
        speeds = sorted(compared.pairs / run.seconds for run in runs)
        spread = f"{speeds[0]:.3f} to {speeds[-1]:.3f}" if len(speeds) > 1 else ""
        peak = max(run.peak_mb for run in runs)
        lines.append(f"{name:28}{median(speeds):9.3f}{spread:>18}{peak:9.0f}")
    apart = ", ".join(f"{each:.1e}" for each in differences(compared.default, own))
    trl = ", ".join(f"{each:.1e}" for each in differences(compared.default, [compared.tuned]))
    lines.append(
        f"bound of sharing a prompt between its two completions, (2r+2)/(r+2): {bound(compared.ratio):.2f}x; "
        f"tokens not computed: {own[0].saved:.0%}"
    )
    lines += [
        f"loss per step, Pairloop to TRL's defaults: {apart}; TRL tuned to its defaults: {trl}",
        f"roofline: {shares[0]:.0%} of {gflops:.0f} GFLOP/s in the steps, {shares[1]:.0%} with the reference pass",
    ]
    return "\n".join(lines)
