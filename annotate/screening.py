"""Which sampled completions make a pair worth a labeler's minute; no ORM."""

from __future__ import annotations

import difflib
import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from models_registry.engine.types import SampledCompletion

TRUNCATED = "truncated"
EMPTY = "empty"
NEAR_IDENTICAL = "near_identical"
IDENTITY = "identity"

#: Share of words in common, in order, from which two completions count as the same.
SAME = 0.95
_NAMES = (
    r"smollm\w*|hugging ?face|chatgpt|gpt-?\d\S*|openai|claude|anthropic|gemini|bard|llama\S*|meta ai|"
    r"mistral\w*|qwen\w*|alibaba|deepseek\w*|grok|copilot|gemma\w*|deepmind|phi-\d\S*"
)
#: "I'm SmolLM", "my name is Claude", "trained by OpenAI": who wrote it, said by the completion itself.
_IDENTITY = re.compile(
    rf"\b(?:i am|i['\u2019]m|my name is|this is|call me|named|trained by|created by|made by|developed by)\b"
    rf"[^.!?\n]{{0,40}}\b(?:{_NAMES})\b",
    re.IGNORECASE,
)


class Written(Protocol):
    """A completion, stored or not."""

    @property
    def text(self) -> str:
        """What was written."""
        ...

    @property
    def finish_reason(self) -> str:
        """Why it ended."""
        ...


@dataclass(frozen=True, slots=True)
class Screened:
    """Pairs of positions in the completions, and why others were left out."""

    pairs: list[tuple[int, int]]
    drops: Counter[str]


def screen(
    completions: Sequence[SampledCompletion], *, most: int, chance: random.Random
) -> Screened:
    """Choose up to `most` pairs of finished completions, at random and each completion as seldom as can be."""
    drops: Counter[str] = Counter()
    usable = []
    for position, completion in enumerate(completions):
        reason = unusable(completion)
        if reason:
            drops[reason] += 1
        else:
            usable.append(position)
    chance.shuffle(usable)
    pairs: list[tuple[int, int]] = []
    uses: Counter[int] = Counter()
    candidates = list(itertools.combinations(usable, 2))
    while candidates and len(pairs) < most:
        pair = min(candidates, key=lambda pair: uses[pair[0]] + uses[pair[1]])
        candidates.remove(pair)
        if near_identical(completions[pair[0]].text, completions[pair[1]].text):
            drops[NEAR_IDENTICAL] += 1
            continue
        pairs.append(pair)
        uses.update(pair)
    return Screened(pairs=pairs, drops=drops)


def unusable(completion: Written) -> str:
    """Return why a completion makes no pair, or an empty text."""
    if not completion.text.strip():
        return EMPTY
    if completion.finish_reason != "stop":
        return TRUNCATED
    if _IDENTITY.search(completion.text):
        return IDENTITY
    return ""


def near_identical(one: str, other: str) -> bool:
    """Return whether two texts differ in so few words that nobody should have to compare them."""
    words, others = one.casefold().split(), other.casefold().split()
    return difflib.SequenceMatcher(None, words, others, autojunk=False).ratio() >= SAME
