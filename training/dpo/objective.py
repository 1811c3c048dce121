"""What a triple costs: score both completions, compare with the reference, apply the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.dpo import losses, score
from training.dpo.data import Triple
from training.dpo.reference import Scores
from training.dpo.spec import Loss


@dataclass(frozen=True, slots=True)
class Scored:
    """A triple under a policy; scalars that carry gradients."""

    triple: Triple
    loss: Tensor
    margin: Tensor
    #: rho of the chosen and of the rejected completion.
    drift_chosen: Tensor
    drift_rejected: Tensor


def score_triple(model: torch.nn.Module, triple: Triple, scores: Scores, loss: Loss) -> Scored:
    """Score one triple."""
    drift_chosen = score.log_prob(model, triple.chosen) - scores[triple.chosen]
    drift_rejected = score.log_prob(model, triple.rejected) - scores[triple.rejected]
    margin = loss.beta * (drift_chosen - drift_rejected)
    return Scored(
        triple=triple,
        loss=losses.chosen(loss)(margin, torch.tensor(triple.target)),
        margin=margin,
        drift_chosen=drift_chosen,
        drift_rejected=drift_rejected,
    )


def batch_backward(
    model: torch.nn.Module, batch: list[Triple], scores: Scores, loss: Loss
) -> list[Scored]:
    """Add the gradients of sum(weight * loss) / sum(weight) over the whole batch, a triple at a time.

    The sum of weights is the batch's, so the split into passes cannot change the result. Returns scalars
    without gradients.
    """
    total = sum(triple.weight for triple in batch)
    found = []
    for triple in batch:
        scored = score_triple(model, triple, scores, loss)
        (scored.loss * (triple.weight / total)).backward()
        found.append(detached(scored))
    return found


def detached(scored: Scored) -> Scored:
    """Return the same numbers without what holds their graph in memory."""
    return Scored(
        triple=scored.triple,
        loss=scored.loss.detach(),
        margin=scored.margin.detach(),
        drift_chosen=scored.drift_chosen.detach(),
        drift_rejected=scored.drift_rejected.detach(),
    )
