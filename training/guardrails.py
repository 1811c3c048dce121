"""The automatic guardrails: measured bounds within which a new version may sample. No Django in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Below this many held-out prompts, chance would decide.
LEAST_PROMPTS = 10
#: A win rate is not among them: only people can give that.
BOUNDS: dict[str, float] = {
    # Nats by which an answer's log-probability may differ from the base's, on average.
    "kl_base_most": 40.0,
    # Distinct two-word sequences, against the base's.
    "distinct2_least": 0.8,
    # Mean tokens of an answer, against the parent's.
    "length_least": 0.7,
    "length_most": 1.4,
    # Points by which fewer answers may end by themselves than the base's.
    "eos_drop_most": 0.05,
}


class BoundsInvalid(ValueError):
    """A guardrail that Pairloop does not know, or no number."""


@dataclass(frozen=True, slots=True)
class Check:
    """One guardrail and how it went."""

    name: str
    value: float
    #: In words, for the round's page.
    bound: str
    is_kept: bool


def bounds_of(overrides: Mapping[str, Any]) -> dict[str, float]:
    """Return all bounds; raises BoundsInvalid for an unknown name or no number."""
    for name, value in overrides.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in BOUNDS or not is_number:
            raise BoundsInvalid(
                f"{name}={value!r} is no guardrail; there are: {', '.join(BOUNDS)}, each a number."
            )
    return BOUNDS | {name: float(value) for name, value in overrides.items()}


def checks(measured: Mapping[str, Any], bounds: Mapping[str, float]) -> list[Check]:
    """Hold what was measured on held-out prompts against the bounds; nothing to hold below LEAST_PROMPTS."""
    if measured["prompts"] < LEAST_PROMPTS:
        return []
    version, parent, base = (measured[name] for name in ("version", "parent", "base"))
    kl = measured["kl_base"]["k1"]
    distinct2 = ratio(version["distinct2"], base["distinct2"])
    length = ratio(version["tokens_mean"], parent["tokens_mean"])
    eos_drop = base["eos_rate"] - version["eos_rate"]
    # What chance alone does to a share of this many answers, twice its standard error.
    noise = 2 * (0.25 / max(version["answers"], 1)) ** 0.5
    return [
        Check("kl_base", kl, f"at most {bounds['kl_base_most']:g} nats", kl <= bounds["kl_base_most"]),
        Check(
            "distinct2", distinct2, f"at least {bounds['distinct2_least']:g} of the base's",
            distinct2 >= bounds["distinct2_least"],
        ),
        Check(
            "length", length, f"{bounds['length_least']:g} to {bounds['length_most']:g} times the parent's",
            bounds["length_least"] <= length <= bounds["length_most"],
        ),
        Check(
            "eos_drop", eos_drop, f"at most {bounds['eos_drop_most']:g} below the base's, beyond chance",
            eos_drop <= bounds["eos_drop_most"] + noise,
        ),
    ]  # fmt: skip


def ratio(value: float, against: float) -> float:
    """Return value / against; 1 when there is nothing to compare with."""
    return value / against if against else 1.0
