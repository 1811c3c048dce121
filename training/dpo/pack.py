"""Completions as one row of tokens: no padding, and every prompt computed once for all its completions.

    [prompt | chosen | rejected] [prompt | completion | completion | completion] ...

A completion sees its prompt and itself, at the positions it would have alone; nothing sees another completion or
another prompt. So what is computed for a completion is what would be computed for it alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from training.dpo.data import Row, Triple


@dataclass(frozen=True, slots=True)
class Span:
    """A prompt's completions in the packed row: where the prompt ends, and each completion's first and last token."""

    start: int
    prompt_end: int
    completions: tuple[slice, ...]

    @property
    def end(self) -> int:
        """One after the last token."""
        return int(self.completions[-1].stop)


@dataclass(frozen=True)
class Pack:
    """Rows of one or several prompts as tensors; n tokens, of which m outputs are scored."""

    rows: tuple[Row, ...]
    spans: tuple[Span, ...]
    #: (n,) token ids, and their positions in their own sequence.
    tokens: Tensor
    positions: Tensor
    #: (m,) whose output is scored, which token it should predict, and which of `rows` that belongs to.
    scored: Tensor
    targets: Tensor
    owners: Tensor

    @cached_property
    def visible(self) -> Tensor:
        """(n, n) whether the token of a row of this matrix may look at the one of a column."""
        found = torch.zeros(len(self.tokens), len(self.tokens), dtype=torch.bool)
        for span in self.spans:
            prompt = slice(span.start, span.prompt_end)
            for own in (prompt, *span.completions):
                found[own, prompt] = True
                found[own, own] = True
        return found.tril_()

    @cached_property
    def masks(self) -> list[Tensor]:
        """What is added to the attention of each prompt's second and further completions, (length, prompt + length)."""
        found = []
        for span in self.spans:
            prompt = span.prompt_end - span.start
            for own in span.completions[1:]:
                length = own.stop - own.start
                mask = torch.full((length, prompt + length), -torch.inf)
                found.append(mask.triu_(prompt + 1))
        return found

    def sums(self, log_probs: Tensor) -> Tensor:
        """Return S of each of `rows` from the log-probabilities (m,) of scored tokens."""
        return log_probs.new_zeros(len(self.rows)).index_add(0, self.owners, log_probs)


def pack(rows: Iterable[Row]) -> Pack:
    """Pack rows, equal ones once, those of one prompt side by side."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in dict.fromkeys(rows):
        groups.setdefault(row.prompt, []).append(row)
    tokens: list[int] = []
    positions: list[int] = []
    spans, scored, targets, owners = [], [], [], []
    packed = [row for members in groups.values() for row in members]
    number = 0
    for prompt, members in groups.items():
        start, prompt_end = len(tokens), len(tokens) + len(prompt)
        tokens += prompt
        positions += range(len(prompt))
        completions = []
        for row in members:
            first = len(tokens)
            # The output at a token predicts the next one: the first is predicted by the prompt, the last predicts nothing.
            tokens += row.completion[:-1]
            positions += range(len(prompt), len(prompt) + len(row.completion) - 1)
            completions.append(slice(first, len(tokens)))
            predicted_by = [prompt_end - 1, *range(first, len(tokens))]
            scored += [predicted_by[index] for index in row.scored]
            targets += [row.completion[index] for index in row.scored]
            owners += [number] * len(row.scored)
            number += 1
        spans.append(Span(start, prompt_end, tuple(completions)))
    return Pack(
        rows=tuple(packed),
        spans=tuple(spans),
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        scored=torch.tensor(scored),
        targets=torch.tensor(targets),
        owners=torch.tensor(owners),
    )


def split(triples: Sequence[Triple], budget: int) -> list[list[Triple]]:
    """Split a step's triples into packs of at most so many tokens, about equally full, prompts kept whole.

    A pack exceeds the budget only where a single triple does; a prompt is computed twice only where its own
    triples do.
    """
    groups: dict[tuple[int, ...], list[Triple]] = {}
    for triple in triples:
        groups.setdefault(triple.chosen.prompt, []).append(triple)
    whole = [part for group in groups.values() for part in _portions(group, budget)]
    if not whole:
        return []
    sizes = [size(part) for part in whole]
    count = min(math.ceil(sum(sizes) / budget), len(whole))
    packs = _spread(sizes, count)
    while max(sum(sizes[index] for index in each) for each in packs) > max(budget, *sizes):
        count += math.ceil(count / 50)
        packs = _spread(sizes, count)
    return [[triple for index in sorted(each) for triple in whole[index]] for each in packs if each]


def _spread(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Spread sizes over packs, large ones first, each into the emptiest: so packs are about equally full."""
    packs: list[list[int]] = [[] for _ in range(count)]
    emptiest = [(0, number) for number in range(count)]
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        load, number = emptiest[0]
        packs[number].append(index)
        heapq.heapreplace(emptiest, (load + sizes[index], number))
    return packs


def size(triples: Iterable[Triple]) -> int:
    """Return how many tokens the triples take when packed."""
    rows = {row for triple in triples for row in (triple.chosen, triple.rejected)}
    prompts = {row.prompt for row in rows}
    return sum(map(len, prompts)) + sum(len(row.completion) - 1 for row in rows)


def size_unshared(triples: Iterable[Triple]) -> int:
    """Return how many tokens the triples take as two sequences each."""
    return sum(row.tokens for triple in triples for row in (triple.chosen, triple.rejected))


def _portions(group: list[Triple], budget: int) -> list[list[Triple]]:
    """Cut the triples of one prompt where they exceed the budget."""
    portions: list[list[Triple]] = []
    rows: set[Row] = set()
    tokens = budget
    for triple in group:
        new = {triple.chosen, triple.rejected} - rows
        more = sum(len(row.completion) - 1 for row in new)
        if not portions or tokens + more > budget:
            portions.append([])
            rows, tokens = set(), 0
            new, more = {triple.chosen, triple.rejected}, size([triple])
        portions[-1].append(triple)
        rows |= new
        tokens += more
    return portions
