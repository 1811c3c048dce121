"""What was measured on versions, in plain words with units; the same on every page and card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from models_registry.stats import evidence
from training import numbers
from training.models import Round
from training.queries import LEAST_HOLDOUT


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured on every version."""

    key: str
    title: str
    hint: str
    #: Writes a value in its unit.
    text: Callable[[float], str]


def percent(value: float) -> str:
    """Write a share."""
    return f"{value:.0%}"


def nats(value: float) -> str:
    """Write a difference of log-probabilities."""
    return f"{value:.1f}"


def tokens(value: float) -> str:
    """Write a length."""
    return f"{value:.0f}"


MEASURES = (
    Measure(
        "accuracy",
        "Prefers the good answer",
        "Share of the held-out triples whose good answer gained on the bad one, against the reference. The"
        " upright line is its 95 % interval.",
        percent,
    ),
    Measure("tokens", "Tokens of an answer", "Mean length of its answers.", tokens),
    Measure(
        "distinct2",
        "Distinct word pairs",
        "Share of the two-word sequences in its answers that are different ones; less is more repetition.",
        percent,
    ),
    Measure(
        "kl",
        "Nats from the base",
        "How much likelier an answer of its own is to it than to the base, by the logarithm (KL); 0 is the base.",
        nats,
    ),
    Measure(
        "eos", "End by themselves", "Share of answers that end before the limit of tokens.", percent
    ),
)
#: Why the trainer left a triple out -> its words; those of held-out triples begin with "holdout_".
DROPPED = {
    "empty": "empty",
    "identical": "two equal answers",
    "nothing_scored": "an answer of nothing but special tokens, which are not scored",
    "too_long": "too long",
    "unknown_token": "tokens that the model does not know",
}
HELD_OUT = "holdout_"


@dataclass(frozen=True, slots=True)
class Value:
    """One measurement; the interval where the number of cases says how sure it is."""

    value: float
    interval: tuple[float, float] | None = None
    cases: int | None = None


def values_of(round_: Round) -> dict[str, Value]:
    """Return what was measured on the version that a round made; what is not known is left out."""
    found = _answers(round_.evaluation, "version")
    after = round_.holdout.get("after") or {}
    pairs = int(round_.holdout.get("pairs") or 0)
    if pairs >= LEAST_HOLDOUT and after.get("accuracy") is not None:
        share = float(after["accuracy"])
        found["accuracy"] = Value(share, _interval(after, pairs), pairs)
    return found


def _interval(after: dict[str, Any], pairs: int) -> tuple[float, float]:
    """Return the trainer's own interval, which counts no ties; versions of before it had none get ours."""
    least, most = after.get("accuracy_low"), after.get("accuracy_high")
    if least is None or most is None:
        return wilson(float(after["accuracy"]), pairs)
    return float(least), float(most)


def values_of_base(rounds: Iterable[Round]) -> dict[str, Value]:
    """Return what the newest of the rounds that measured anything found about the base."""
    for round_ in sorted(rounds, key=lambda one: -one.number):
        if found := _answers(round_.evaluation, "base"):
            return found
    return {}


def _answers(evaluation: dict[str, Any], who: str) -> dict[str, Value]:
    if not evaluation.get("prompts"):
        return {}
    measured = evaluation[who]
    kl = evaluation["kl_base"]["k1"] if who == "version" else 0.0
    return {
        "tokens": Value(measured["tokens_mean"]),
        "distinct2": Value(measured["distinct2"]),
        "kl": Value(kl),
        "eos": Value(measured["eos_rate"]),
    }


def training_rows(
    metrics: dict[str, Any], loss: Mapping[str, Any] | None = None
) -> list[tuple[str, str, str]]:
    """Return title, value and explanation of the numbers at the end of a training with `loss` of run.json."""
    told = dict(metrics.get("training", {}))
    rows = [
        (number.title, numbers.text_of(number.key, told) or "—", number.hint)
        for number in numbers.numbers_of(loss or {})
        if number.key in told
    ]
    known = {number.key for number in numbers.NUMBERS} | {
        name for pair in numbers.BRACKETS.values() for name in pair
    }
    others = {name: value for name, value in told.items() if name not in known}
    return rows + [
        (name.replace("_", " "), numbers.text_of(name, others) or "—", "") for name in others
    ]


def dropped_rows(metrics: dict[str, Any]) -> list[tuple[str, int]]:
    """Return why triples were left out of a training, and how many for each reason."""
    return [
        (f"held-out, {_why(name.removeprefix(HELD_OUT))}", count)
        if name.startswith(HELD_OUT)
        else (_why(name), count)
        for name, count in sorted(metrics.get("dropped", {}).items())
        if count
    ]


def _why(reason: str) -> str:
    return DROPPED.get(reason, reason.replace("_", " "))


def wilson(share: float, cases: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent cases (Wilson 1927)."""
    rate = evidence.wilson(share, cases)
    return rate.low, rate.high
