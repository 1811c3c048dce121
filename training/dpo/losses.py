"""Losses as pure functions of the margin d and the target p; tensors of one shape, nothing reduced.

d = beta * (rho(w) - rho(l)), where rho(y) = S(y) - S0(y): log-probability under the policy minus that under
the reference, summed over the completion's tokens; w is the chosen completion and l the rejected one.
A policy that equals its reference has d = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from training.dpo.spec import Loss

#: (margin, target) -> loss
LossFunction = Callable[[Tensor, Tensor], Tensor]


def dpo(margin: Tensor, target: Tensor) -> Tensor:
    """Return -p log sigmoid(d) - (1-p) log sigmoid(-d).

    Rafailov 2023 (arXiv 2305.18290) eq. 7 for p = 1; for p = 1 - epsilon eq. 3 of Mitchell's note on
    conservative DPO. The derivative by d is sigmoid(d) - p. At d = 0 it is ln 2, whatever the target.
    """
    return -(target * F.logsigmoid(margin) + (1 - target) * F.logsigmoid(-margin))


def dpo_ties(margin: Tensor, target: Tensor) -> Tensor:
    """Return 2 * dpo(d/2, p): DPO whose p = 1/2 is a real outcome, a tie, and not doubt.

    Davidson's tie model with nu = 1: P(w) = sigmoid(d/2)^2 and P(tie) = 2 sigmoid(d/2) sigmoid(-d/2), so
    -log P(w) is this at p = 1, and -log P(tie) is this at p = 1/2 minus the constant log 2. Chen 2024
    (arXiv 2409.17431). The derivative by d is sigmoid(d/2) - p. At d = 0 it is 2 ln 2, whatever the target.
    """
    return 2 * dpo(margin / 2, target)


def chosen(spec: Loss) -> LossFunction:
    """Return the function that run.json names."""
    return dpo_ties if spec.ties else dpo
