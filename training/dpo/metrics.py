"""What a step or an evaluation reports: means over all its pairs, weighted by the pairs' weights.

Everything is computed once, from all pairs together and in float64, so neither the split into passes nor the
pairs' order shows.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.dpo.losses import Losses, Pairs

#: A margin this small is rounding: the reference may have been scored with another number of threads.
ROUNDING = 1e-4
BINS = 10
#: Of a 95 % interval.
Z = 1.959964


def summary(pairs: Pairs, losses: Losses) -> dict[str, float | None]:
    """Return the numbers that events.jsonl holds of a step or an evaluation; at least one pair is needed.

    A mean over pairs is None when there are none of that kind: `accuracy` and `calibration` are of those with a
    better completion (target other than 1/2), `ties_margin` of the others, and drifts need a reference.
    """
    seen = _Seen.of(pairs, losses)
    is_tie = seen.target == 0.5
    return {
        "loss": _mean(seen.total, seen.weight),
        "loss_preference": _mean(seen.preference, seen.weight),
        "loss_nll": _mean(seen.nll, seen.weight),
        "margin": _mean(seen.margin, seen.weight),
        "margin_p10": quantile(seen.margin, seen.weight, 0.1),
        "margin_p90": quantile(seen.margin, seen.weight, 0.9),
        "accuracy": _mean(right(seen.margin, seen.target)[~is_tie], seen.weight[~is_tie]),
        "calibration": calibration(
            seen.margin[~is_tie], seen.target[~is_tie], seen.weight[~is_tie]
        ),
        **_drifts(seen),
        "nll_chosen": _mean(-seen.chosen / seen.n_chosen.clamp(min=1), seen.weight),
        "length_ratio": _length_ratio(seen),
        "ties_margin": _mean(seen.margin[is_tie].abs(), seen.weight[is_tie]),
    }


def accuracy_interval(pairs: Pairs, accuracy: float | None) -> dict[str, float | None]:
    """Return the 95 % interval of an accuracy by Wilson 1927, with every pair that has a better completion as one trial.

    A mean over weighted pairs is taken as if they weighed the same.
    """
    count = int((pairs.target != 0.5).sum())
    if accuracy is None or not count:
        return {"accuracy_low": None, "accuracy_high": None}
    share = Z * Z / count
    middle = (accuracy + share / 2) / (1 + share)
    half = Z / (1 + share) * math.sqrt(accuracy * (1 - accuracy) / count + share / count / 4)
    return {"accuracy_low": max(0.0, middle - half), "accuracy_high": min(1.0, middle + half)}


def right(margin: Tensor, target: Tensor) -> Tensor:
    """Return 1 where the margin has the sign of the judgement, 0 where not, 1/2 where it is 0; shape (k,)."""
    agrees = ((margin > 0) == (target > 0.5)).double()
    return torch.where(margin.abs() <= ROUNDING, 0.5, agrees)


def calibration(margin: Tensor, target: Tensor, weight: Tensor) -> float | None:
    """Return the expected calibration error: how far sigmoid(d) is from being a probability; 0 to 1.

    Each pair counts both ways round, since w is the better one in nearly all and d > 0 must not be right by
    construction: as sigmoid(d) with the outcome, and as sigmoid(-d) with the opposite. In BINS equal bins of that
    probability the means of both are compared, and the gaps are averaged by the bins' weights. Guo 2017
    (arXiv 1706.04599) eq. 5.
    """
    if not len(margin):
        return None
    # Between two bins lies 1/2, and what is rounding must fall on neither side of it.
    margin = torch.where(margin.abs() <= ROUNDING, 0.0, margin)
    probability = torch.sigmoid(torch.cat((margin, -margin)))
    better = (target > 0.5).double()
    outcome = torch.cat((better, 1 - better))
    weights = torch.cat((weight, weight))
    # What is not finite goes to any bin and makes the result not finite.
    bins = (probability.nan_to_num(0.0) * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(
        0, bins, weights * (probability - outcome)
    )
    return float(gaps.abs().sum() / weights.sum())


def quantile(values: Tensor, weight: Tensor, share: float) -> float:
    """Return the lowest of the values that, with all below it, has this share of the weight."""
    values, order = values.sort()
    reached = weight[order].cumsum(0) / weight.sum()
    # Sums of weights round.
    position = int((reached < share - 1e-12).sum())
    return float(values[min(position, len(values) - 1)])


@dataclass(frozen=True, slots=True)
class _Seen:
    """The numbers of pairs and losses, each (k,), in float64, without gradients, on the CPU."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    n_chosen: Tensor
    n_rejected: Tensor
    target: Tensor
    weight: Tensor
    total: Tensor
    preference: Tensor
    nll: Tensor
    margin: Tensor

    @classmethod
    def of(cls, pairs: Pairs, losses: Losses) -> _Seen:
        """Take them out of their graphs."""
        return cls(
            **{
                field.name: getattr(given, field.name).detach().double().cpu()
                for given in (pairs, losses)
                for field in dataclasses.fields(given)
            }
        )


def _drifts(seen: _Seen) -> dict[str, float | None]:
    """Return mean rho(w) and rho(l): both falling while the margin grows is likelihood displacement."""
    # No reference scores every completion 0.
    if not (seen.ref_chosen.any() or seen.ref_rejected.any()):
        return {"drift_chosen": None, "drift_rejected": None}
    return {
        "drift_chosen": _mean(seen.chosen - seen.ref_chosen, seen.weight),
        "drift_rejected": _mean(seen.rejected - seen.ref_rejected, seen.weight),
    }


def _length_ratio(seen: _Seen) -> float | None:
    """Return the scored tokens of chosen completions over those of rejected ones; not weighted."""
    rejected = seen.n_rejected.sum()
    return float(seen.n_chosen.sum() / rejected) if rejected else None


def _mean(values: Tensor, weight: Tensor) -> float | None:
    return float((values * weight).sum() / weight.sum()) if len(values) else None
