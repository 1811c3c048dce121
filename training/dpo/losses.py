"""Losses as pure functions of what the policy and the reference make of k pairs; nothing is reduced.

Of a pair w is the chosen completion and l the rejected one. Of a completion y, S(y) is the log-probability under
the policy, summed over its scored tokens, S0(y) the same under the reference, n(y) the count of those tokens, and
rho(y) = S(y) - S0(y). beta, smoothing e, gamma and penalty are those of run.json.

A function named like a loss returns L(w, l), what a pair costs when w is better for certain. That it is better
with probability p, the target, makes it p * L(w, l) + (1 - p) * L(l, w).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.dpo.spec import Loss


@dataclass(frozen=True, slots=True)
class Pairs:
    """k pairs; every tensor is of shape (k,) and float32, and only the first two have gradients."""

    #: S(w) and S(l).
    chosen: Tensor
    rejected: Tensor
    #: S0(w) and S0(l); zeros with a loss that compares with no reference.
    ref_chosen: Tensor
    ref_rejected: Tensor
    #: n(w) and n(l).
    n_chosen: Tensor
    n_rejected: Tensor
    #: How probable it is that w is better, 0 to 1.
    target: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """What k pairs cost, not weighted; every tensor is of shape (k,).

    `total` = `preference` + spec.nll * `nll`, and `margin` is d: see its function.
    """

    total: Tensor
    preference: Tensor
    nll: Tensor
    margin: Tensor


#: (pairs, spec) -> L(w, l), shape (k,)
LossFunction = Callable[[Pairs, Loss], Tensor]


def evaluate(pairs: Pairs, spec: Loss) -> Losses:
    """Return what each pair costs under the loss that run.json names."""
    cost = preference(pairs, spec)
    likelihood = nll(pairs)
    return Losses(
        total=cost + spec.nll * likelihood,
        preference=cost,
        nll=likelihood,
        margin=margin(pairs, spec),
    )


def preference(pairs: Pairs, spec: Loss) -> Tensor:
    """Return p * L(w, l) + (1 - p) * L(l, w).

    With dpo, smoothing e turns p into p (1 - 2e) + e: eq. 3 of Mitchell's note on conservative DPO, for p = 1.
    """
    function = dpo_ties if spec.ties else FUNCTIONS[spec.name]
    target = pairs.target
    if spec.name == "dpo":
        target = target * (1 - 2 * spec.smoothing) + spec.smoothing
    return target * function(pairs, spec) + (1 - target) * function(swapped(pairs), spec)


def nll(pairs: Pairs) -> Tensor:
    """Return -S(w)/n(w) of the better completion, which is l for a target below 1/2; 0 for a target of 1/2.

    Pang 2024 (arXiv 2404.19733); Llama 3 adds 0.2 of it to dpo. A mean over the completion's own tokens, so that
    it does not depend on what else is in the batch. The derivative by S(w) is -1/n(w).
    """
    chosen, rejected = (
        -_mean(pairs.chosen, pairs.n_chosen),
        -_mean(pairs.rejected, pairs.n_rejected),
    )
    better = torch.where(pairs.target < 0.5, rejected, chosen)
    return torch.where(pairs.target == 0.5, torch.zeros_like(better), better)


def margin(pairs: Pairs, spec: Loss) -> Tensor:
    """Return d, by how much w leads: 0 where policy and reference are equal, except with simpo.

    beta * (rho(w) - rho(l)); of the means over tokens, rho(y)/n(y), with ipo and ln; and with simpo, which has no
    reference, beta * (S(w)/n(w) - S(l)/n(l)).
    """
    return spec.beta * _lead(pairs, spec)


def dpo(pairs: Pairs, spec: Loss) -> Tensor:
    """Return -log sigmoid(d), d = beta * (rho(w) - rho(l)).

    Rafailov 2023 (arXiv 2305.18290) eq. 7. With a target p the derivative by d is sigmoid(d) - p. ln 2 at the
    start, where policy and reference are equal.
    """
    return -F.logsigmoid(margin(pairs, spec))


def dpo_ties(pairs: Pairs, spec: Loss) -> Tensor:
    """Return 2 * -log sigmoid(d/2): dpo whose target 1/2 is a real outcome, a tie, and not doubt.

    Davidson's tie model with nu = 1: P(w) = sigmoid(d/2)^2 and P(tie) = 2 sigmoid(d/2) sigmoid(-d/2), so
    -log P(w) is this at p = 1, and -log P(tie) is this at p = 1/2 minus the constant log 2. Chen 2024
    (arXiv 2409.17431). The derivative by d is sigmoid(d/2) - p. 2 ln 2 at the start.
    """
    return -2 * F.logsigmoid(margin(pairs, spec) / 2)


def robust(pairs: Pairs, spec: Loss) -> Tensor:
    """Return [-(1-e) log sigmoid(d) + e log sigmoid(-d)] / (1-2e).

    Chowdhury 2024 (arXiv 2403.00409): when a share e of the judgements is the wrong way round, its mean over them
    is dpo's over the right ones. The derivative by d is -[(1-e) sigmoid(-d) + e sigmoid(d)] / (1-2e). ln 2 at the
    start.
    """
    e = spec.smoothing
    return ((1 - e) * dpo(pairs, spec) - e * dpo(swapped(pairs), spec)) / (1 - 2 * e)


def ipo(pairs: Pairs, spec: Loss) -> Tensor:
    """Return (h - 1/(2 beta))^2, h = rho(w)/n(w) - rho(l)/n(l).

    Azar 2023 (arXiv 2310.12036) eq. 17, of means over tokens, as TRL has it. The derivative by h is
    2 (h - 1/(2 beta)). 1/(4 beta^2) at the start.
    """
    return (_lead(pairs, spec) - 1 / (2 * spec.beta)) ** 2


def ln(pairs: Pairs, spec: Loss) -> Tensor:
    """Return -log sigmoid(d), d = beta * (rho(w)/n(w) - rho(l)/n(l)).

    Length-normalised DPO: Tulu 3 (arXiv 2411.15124) section 4.3; TRL calls it sigmoid_norm. Wants a beta near 5,
    since means are that much smaller than sums. The derivative by d is -sigmoid(-d). ln 2 at the start.
    """
    return -F.logsigmoid(margin(pairs, spec))


def apo_zero(pairs: Pairs, spec: Loss) -> Tensor:
    """Return 1 - sigmoid(beta rho(w)) + sigmoid(beta rho(l)).

    D'Oosterlinck 2024 (arXiv 2408.06266) eq. 7: anchored, w shall become likelier than under the reference and l
    less likely. With s = sigmoid(beta rho(y)) the derivative by rho(y) is beta s (1-s) for l and its negative for
    w. 1 at the start, and 1 for ever with a target of 1/2: a tie teaches nothing.
    """
    chosen = torch.sigmoid(spec.beta * (pairs.chosen - pairs.ref_chosen))
    rejected = torch.sigmoid(spec.beta * (pairs.rejected - pairs.ref_rejected))
    return 1 - chosen + rejected


def dpop(pairs: Pairs, spec: Loss) -> Tensor:
    """Return -log sigmoid(d - beta * penalty * max(0, S0(w) - S(w))).

    DPO-Positive, Pal 2024 (arXiv 2402.13228): w becoming less likely than under the reference costs extra. Where
    it is, the derivative by rho(w) is dpo's times 1 + penalty. ln 2 at the start.
    """
    shortfall = F.relu(pairs.ref_chosen - pairs.chosen)
    penalty = spec.beta * (spec.penalty or 0.0)
    return -F.logsigmoid(margin(pairs, spec) - penalty * shortfall)


def simpo(pairs: Pairs, spec: Loss) -> Tensor:
    """Return -log sigmoid(d - gamma), d = beta * (S(w)/n(w) - S(l)/n(l)).

    Meng 2024 (arXiv 2405.14734) eq. 6; no reference. The derivative by d is -sigmoid(gamma - d). What it starts at
    depends on the completions.
    """
    return -F.logsigmoid(margin(pairs, spec) - (spec.gamma or 0.0))


def swapped(pairs: Pairs) -> Pairs:
    """Return the pairs with w and l in each other's place; targets and weights stay."""
    return dataclasses.replace(
        pairs,
        chosen=pairs.rejected,
        rejected=pairs.chosen,
        ref_chosen=pairs.ref_rejected,
        ref_rejected=pairs.ref_chosen,
        n_chosen=pairs.n_rejected,
        n_rejected=pairs.n_chosen,
    )


#: By the names of run.json.
FUNCTIONS: dict[str, LossFunction] = {
    "dpo": dpo,
    "robust": robust,
    "ipo": ipo,
    "ln": ln,
    "apo_zero": apo_zero,
    "dpop": dpop,
    "simpo": simpo,
}
#: The losses of means over tokens.
NORMALISED = ("ipo", "ln", "simpo")


def _lead(pairs: Pairs, spec: Loss) -> Tensor:
    """Return the margin before beta. Without a reference S0 is 0, and rho is S."""
    chosen, rejected = pairs.chosen - pairs.ref_chosen, pairs.rejected - pairs.ref_rejected
    if spec.name in NORMALISED:
        return _mean(chosen, pairs.n_chosen) - _mean(rejected, pairs.n_rejected)
    return chosen - rejected


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """Return the mean over tokens; 0 for a completion of which no token is scored, whose sum is 0."""
    return total / count.clamp(min=1)
