"""What a batch costs: score its completions, compare them with the reference, apply the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TypeVar

import torch

from training.dpo import losses
from training.dpo.data import Row, Triple
from training.dpo.losses import Losses, Pairs
from training.dpo.pack import pack, split
from training.dpo.reference import Scores
from training.dpo.score import Scorer
from training.dpo.spec import Loss

Numbers = TypeVar("Numbers", Pairs, Losses)


def batch_score(
    by: Scorer,
    batch: Sequence[Triple],
    scores: Scores | None,
    loss: Loss,
    *,
    budget: int,
    each: Callable[[int], None] = lambda _pairs: None,
) -> tuple[Pairs, Losses]:
    """Score a batch in packs of at most `budget` tokens; where gradients are on, add those of its mean loss.

    The mean is sum(weight * loss) / sum(weight) over the whole batch, so neither the split into packs nor its order
    can change the result. `each` hears how many pairs are done; what is returned has no gradients.
    """
    total = sum(triple.weight for triple in batch)
    found: list[tuple[Pairs, Losses]] = []
    for triples in split(batch, budget):
        pairs = pairs_of(by, triples, scores)
        measured = losses.evaluate(pairs, loss)
        if torch.is_grad_enabled():
            ((measured.total * pairs.weight).sum() / total).backward()
        found.append((_detached(pairs), _detached(measured)))
        each(len(triples))
    return _joined([pairs for pairs, _ in found]), _joined([measured for _, measured in found])


def pairs_of(by: Scorer, triples: Sequence[Triple], scores: Scores | None) -> Pairs:
    """Score triples in one pack; without scores of a reference, those are zeros."""
    packed = pack(row for triple in triples for row in (triple.chosen, triple.rejected))
    sums = packed.sums(by.log_probs(packed))
    where = {row: number for number, row in enumerate(packed.rows)}
    chosen, rejected = [each.chosen for each in triples], [each.rejected for each in triples]

    def reference(rows: list[Row]) -> torch.Tensor:
        return torch.tensor([0.0 if scores is None else scores[row] for row in rows])

    def lengths(rows: list[Row]) -> torch.Tensor:
        return torch.tensor([float(len(row.scored)) for row in rows])

    return Pairs(
        chosen=sums[[where[row] for row in chosen]],
        rejected=sums[[where[row] for row in rejected]],
        ref_chosen=reference(chosen),
        ref_rejected=reference(rejected),
        n_chosen=lengths(chosen),
        n_rejected=lengths(rejected),
        target=torch.tensor([each.target for each in triples]),
        weight=torch.tensor([each.weight for each in triples]),
    )


def _detached(given: Numbers) -> Numbers:
    """Return the same numbers without what holds their graph in memory."""
    return type(given)(*(getattr(given, field.name).detach() for field in fields(given)))


def _joined(parts: Sequence[Numbers]) -> Numbers:
    """Return the numbers of all parts as one."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
