"""The numbers that a trainer tells about its steps and its held-out triples, in plain words; no Django in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from training import presets

#: (step, value) of a number, in order.
Series = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Number:
    """One number: the trainer's name for it, ours, and what it is."""

    key: str
    title: str
    hint: str


NUMBERS = (
    Number("loss", "Loss", "what the steps make smaller"),
    Number("loss_preference", "Loss, preferences", "the part that moves answers apart"),
    Number("loss_nll", "Loss, text", "the part that keeps good answers likely, before it is weighted"),
    Number(
        "margin",
        "Margin",
        "how far the good answers are ahead of the bad ones, against the reference, times β; in brackets from"
        " where to where all but the lowest and the highest tenth of the triples are",
    ),
    Number(
        "accuracy",
        "Accuracy",
        "share of the triples whose good answer is ahead; ties are left out; in brackets its 95 % interval",
    ),
    Number(
        "calibration",
        "Calibration error",
        "how far its confidence that an answer is the good one is from how often that is so; 0 is best",
    ),
    Number(
        "drift_chosen",
        "Drift of good answers",
        "nats by which they are likelier than to the reference; below 0 less likely",
    ),
    Number("drift_rejected", "Drift of bad answers", "the same of the bad ones"),
    Number("nll_chosen", "Surprise at good answers", "nats for each of their tokens; less is likelier"),
    Number("length_ratio", "Length", "tokens of the good answers for each token of the bad ones"),
    Number("ties_margin", "Margin of ties", "how far equally good answers are apart; it should shrink"),
    Number("grad_norm", "Length of the gradient", "before it is clipped"),
    Number("learning_rate", "Learning rate", "of the step"),
    Number("pairs", "Triples", "of the step, or all that are held out"),
    Number("tokens", "Tokens", "that the step computed"),
    Number(
        "tokens_saved",
        "Tokens saved",
        "share of the step's tokens that need not be computed, since both answers share their prompt",
    ),
    Number("seconds", "Seconds", "that the step took"),
    Number("tokens_per_s", "Tokens a second", "that it computed"),
)  # fmt: skip
#: Numbers that stand in brackets behind another.
BRACKETS = {
    "margin": ("margin_p10", "margin_p90"),
    "accuracy": ("accuracy_low", "accuracy_high"),
}
#: Numbers that say nothing new in a loss of one part.
PARTS = frozenset({"loss_preference", "loss_nll"})
#: Steps whose mean counts: a single one has only a few triples.
RECENT = 10


def numbers_of(loss: Mapping[str, Any]) -> tuple[Number, ...]:
    """Return the numbers that mean something with a loss of run.json, with what it says about them."""
    has_parts = bool(loss.get("nll"))
    about = presets.indifferent_said(loss)
    told = "loss_preference" if has_parts else "loss"
    return tuple(
        replace(number, hint=f"{number.hint}; {about}") if about and number.key == told else number
        for number in NUMBERS
        if has_parts or number.key not in PARTS
    )


def text_of(key: str, values: Mapping[str, float | None]) -> str:
    """Write one of the values with what stands in brackets behind it; empty when it is not there."""
    value = values.get(key)
    if value is None:
        return ""
    least, most = (values.get(name) for name in BRACKETS.get(key, ("", "")))
    if least is None or most is None:
        return plain(value)
    return f"{plain(value)} ({plain(least)} to {plain(most)})"


def plain(value: float) -> str:
    """Write a number with four digits, or whole when it has more before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def last_of(metrics: Mapping[str, Series]) -> dict[str, float | None]:
    """Return the values of the newest step. A number that it did not tell is missing, not that of an older one."""
    if not metrics.get("loss"):
        return {}
    newest, _ = metrics["loss"][-1]
    return {name: series[-1][1] for name, series in metrics.items() if series[-1][0] == newest}


def is_displaced(metrics: Mapping[str, Series]) -> bool:
    """Whether both kinds of answers have become less likely, the bad ones more so.

    Likelihood displacement, Razin 2024 (arXiv 2410.08847): the margin grows, and what gains is neither answer.
    """
    good, bad = (
        [value for _, value in metrics.get(name, [])[-RECENT:]]
        for name in ("drift_chosen", "drift_rejected")
    )
    return bool(good and bad) and fmean(bad) < fmean(good) < 0
