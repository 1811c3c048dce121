"""snapshot.jsonl and holdout.jsonl: lines in, triples of token ids out, in an order that is a pure function.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from training.dpo.failures import RoundFailed

#: From messages to ids of the prompt; and from an answer's text and how it finished to ids of the completion.
TokenisePrompt = Callable[[list[dict[str, str]]], list[int]]
TokeniseAnswer = Callable[[str, str | None], list[int]]


@dataclass(frozen=True)
class Row:
    """A prompt with one completion, as token ids. EOS is part of a completion only where it was sampled."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    #: Indices of the completion's tokens that are read but not scored.
    silent: tuple[int, ...] = ()

    # A round asks for both several times, and for each step again.
    @cached_property
    def key(self) -> str:
        """The name of this row in the store of reference scores."""
        parts = [self.prompt, self.completion, *([self.silent] if self.silent else [])]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @cached_property
    def scored(self) -> tuple[int, ...]:
        """Indices of the completion's tokens that are scored."""
        return tuple(index for index in range(len(self.completion)) if index not in self.silent)

    @property
    def tokens(self) -> int:
        """Of prompt and completion together."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Triple:
    """Two completions of one prompt; `target` is how probable it is that the chosen one is better."""

    chosen: Row
    rejected: Row
    target: float
    weight: float


@dataclass(frozen=True, slots=True)
class Tokeniser:
    """How text becomes ids where the engine's own are missing."""

    prompt: TokenisePrompt
    answer: TokeniseAnswer
    #: Ids that mean something to the template and nothing to a reader, such as the end of a turn.
    special: frozenset[int]


@dataclass(slots=True)
class Data:
    """What a file holds, and what was dropped from it by reason."""

    triples: list[Triple] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    #: Triples of which the trainer tokenised something itself.
    tokenised: int = 0


def read(
    path: Path, *, tokeniser: Tokeniser, max_tokens: int, vocabulary: int, mask_special: bool
) -> Data:
    """Read the triples of a file; count those that cannot be trained on. Raises RoundFailed.

    Nothing is ever truncated: half an answer is another answer.
    """
    data = Data()
    silent = tokeniser.special if mask_special else frozenset()
    for number, line in enumerate(_lines(path), start=1):
        try:
            given = json.loads(line)
            triple = _triple(given, tokeniser, silent)
            tokenised = any(
                given[f"{part}_ids"] is None for part in ("prompt", "chosen", "rejected")
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise RoundFailed(
                "data_invalid",
                f"Line {number} of {path.name} is no triple ({type(error).__name__}: {error}); "
                "take a new snapshot.",
            ) from error
        reason = _unusable(triple, max_tokens=max_tokens, vocabulary=vocabulary)
        if reason:
            data.dropped[reason] += 1
        else:
            data.triples.append(triple)
            data.tokenised += tokenised
    return data


def steps_per_epoch(triples: int, batch_pairs: int) -> int:
    """Return how many optimizer steps see every triple once."""
    return math.ceil(triples / batch_pairs)


def batch(triples: list[Triple], *, step: int, batch_pairs: int, seed: int) -> list[Triple]:
    """Return the triples of one step: a pure function of the seed and the step, so a resumed run sees the same.

    Prompts are shuffled, and the triples of one prompt follow each other, so that they share its computation. Batches of an
    epoch differ by at most one triple in size; a last one of a single triple would have the say of a full one.
    """
    per_epoch = steps_per_epoch(len(triples), batch_pairs)
    epoch, position = divmod(step, per_epoch)
    prompts: dict[tuple[int, ...], list[Triple]] = {}
    for triple in triples:
        prompts.setdefault(triple.chosen.prompt, []).append(triple)
    groups = list(prompts.values())
    order = epoch_order(len(groups), seed=seed, epoch=epoch)
    ordered = [triple for number in order for triple in groups[number]]
    first, end = (len(triples) * (position + more) // per_epoch for more in (0, 1))
    return ordered[first:end]


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """Return a permutation of 0..count-1 that no generator's state and no library's version can change."""
    return sorted(
        range(count),
        key=lambda number: hashlib.sha256(f"{seed}/{epoch}/{number}".encode()).digest(),
    )


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RoundFailed("data_invalid", f"{path.name} cannot be read ({error}).") from error
    # Not splitlines(): an answer may hold line separators that JSON does not escape.
    return text.removesuffix("\n").split("\n") if text else []


def _triple(given: dict[str, Any], tokeniser: Tokeniser, silent: frozenset[int]) -> Triple:
    """Translate one line; tokens among `silent` are not scored. Raises what reading a wrong line raises."""
    ids = given["prompt_ids"]
    prompt = _ids(tokeniser.prompt(given["prompt"]) if ids is None else ids)
    rows = []
    for part in ("chosen", "rejected"):
        ids = given[f"{part}_ids"]
        if ids is None:
            ids = tokeniser.answer(given[part][0]["content"], given["finish"][part])
        completion = _ids(ids)
        unscored = tuple(index for index, token in enumerate(completion) if token in silent)
        rows.append(Row(prompt=prompt, completion=completion, silent=unscored))
    target, weight = float(given["target"]), float(given["weight"])
    if not 0 <= target <= 1:
        raise ValueError("target must be from 0 to 1")
    if not (weight > 0 and math.isfinite(weight)):
        raise ValueError("weight must be above 0")
    return Triple(chosen=rows[0], rejected=rows[1], target=target, weight=weight)


def _ids(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or any(type(token) is not int for token in given):
        raise TypeError("token ids must be a list of integers")
    return tuple(given)


def _unusable(triple: Triple, *, max_tokens: int, vocabulary: int) -> str | None:
    """Return why a triple cannot be trained on, None when it can."""
    rows = (triple.chosen, triple.rejected)
    if not all(row.prompt and row.completion for row in rows):
        return "empty"
    if not all(row.scored for row in rows):
        return "nothing_scored"
    if triple.chosen == triple.rejected:
        return "identical"
    if any(row.tokens > max_tokens for row in rows):
        return "too_long"
    if any(not 0 <= token < vocabulary for row in rows for token in row.prompt + row.completion):
        return "unknown_token"
    return None
