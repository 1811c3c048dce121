"""What a step or an evaluation reports: weighted means over all its pairs."""

from __future__ import annotations

from training.dpo.objective import Scored

#: A margin this small is rounding: the reference may have been scored with another number of threads.
ROUNDING = 1e-4


def summary(scored: list[Scored]) -> dict[str, float | None]:
    """Return loss, margin, accuracy and drifts, each a mean weighted by the triples' weights.

    Accuracy counts only pairs with a better one (target other than 1/2), a margin of 0 as half right. It is
    None when all are ties.
    """
    judged = [item for item in scored if item.triple.target != 0.5]
    return {
        "loss": _mean(scored, [item.loss.item() for item in scored]),
        "margin": _mean(scored, [item.margin.item() for item in scored]),
        "accuracy": _mean(judged, [_right(item) for item in judged]),
        "drift_chosen": _mean(scored, [item.drift_chosen.item() for item in scored]),
        "drift_rejected": _mean(scored, [item.drift_rejected.item() for item in scored]),
    }


def _mean(scored: list[Scored], values: list[float]) -> float | None:
    total = sum(item.triple.weight for item in scored)
    if not total:
        return None
    return (
        sum(item.triple.weight * value for item, value in zip(scored, values, strict=True)) / total
    )


def _right(scored: Scored) -> float:
    margin = scored.margin.item()
    if abs(margin) <= ROUNDING:
        return 0.5
    return float((margin > 0) == (scored.triple.target > 0.5))
