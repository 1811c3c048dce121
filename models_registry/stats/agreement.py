"""How far people agree with each other and with themselves. Plain Python: no Django, no arrays.

Krippendorff's alpha by its coincidence matrix (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability",
repository.upenn.edu/asc_papers/43; 2004, "Content Analysis", chapter 11). A unit is what is judged, a rater is
who judges it; units with a single judgement say nothing about agreement and are left out everywhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any

from models_registry.stats.evidence import Z95, wilson

#: Below so many units, an interval of alpha would be a guess.
LEAST_UNITS = 10

NO_UNITS = "Nothing was judged by two people yet."
NO_VARIATION = "Every judgement said the same, so nothing tells agreement from having no choice."

#: (unit, rater, value)
Rating = tuple[Hashable, Hashable, Any]
#: The values of a unit in order -> how many units have exactly these.
Patterns = Mapping[tuple[Any, ...], int]
#: (value, value) -> how often both meet in a unit.
Coincidences = Mapping[tuple[Any, Any], float]
#: How far two values are apart, squared, given how often each value occurs.
Distance = Callable[[Any, Any, Mapping[Any, float]], float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far raters agree, and on how much that rests."""

    #: None: undefined, and `why` says why.
    value: float | None
    #: A 95 % interval; None when there are too few units, or too few that differ.
    low: float | None
    high: float | None
    units: int
    raters: int
    #: Judgements in these units.
    values: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of n with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def excludes(self, value: float) -> bool:
        """Whether a value is outside of the interval."""
        return not self.low <= value <= self.high


def share(count: float, n: int) -> Share | None:
    """Return count of n with Wilson's interval; None of nothing."""
    if not n:
        return None
    rate = wilson(count / n, n)
    return Share(rate.value, rate.low, rate.high, n)


# --- Among people --------------------------------------------------------------------------------------


def alpha_nominal(ratings: Iterable[Rating]) -> Agreement:
    """Return Krippendorff's alpha where values are either the same or not."""
    return _alpha(_Units.of(ratings), _nominal)


def alpha_ordinal(ratings: Iterable[Rating]) -> Agreement:
    """Return Krippendorff's alpha where values have an order, so that some are farther apart than others."""
    return _alpha(_Units.of(ratings), _ordinal)


def raw_agreement(ratings: Iterable[Rating]) -> Agreement:
    """Return how probably two judgements of one unit are the same, whatever chance would do.

    The diagonal of the coincidence matrix. Wilson's interval takes units for independent, not judgements.
    """
    units = _Units.of(ratings)
    if not units.patterns:
        return units.agreement(None, why=NO_UNITS)
    matrix = coincidences(units.patterns)
    same = sum(often for (one, other), often in matrix.items() if one == other)
    rate = wilson(min(same / sum(matrix.values()), 1.0), units.count)
    return units.agreement(rate.value, low=rate.low, high=rate.high)


def coincidences(patterns: Patterns) -> dict[tuple[Any, Any], float]:
    """Return o_ck: the ordered pairs of values c and k in each unit, divided by its judgements less one.

    So every judgement counts once, however many others its unit has.
    """
    matrix: dict[tuple[Any, Any], float] = defaultdict(float)
    for values, times in patterns.items():
        for two, met in _meetings(values):
            matrix[two] += times * met / (len(values) - 1)
    return dict(matrix)


@lru_cache
def _meetings(values: tuple[Any, ...]) -> tuple[tuple[tuple[Any, Any], int], ...]:
    """Return how often each two values of one unit meet. A jackknife asks this of the same units again and again."""
    counts = Counter(values)
    met = {
        (one, other): n_one * (n_other - (one == other))
        for one, n_one in counts.items()
        for other, n_other in counts.items()
    }
    return tuple((two, often) for two, often in met.items() if often)


@dataclass(frozen=True, slots=True)
class _Units:
    """The units with two judgements or more."""

    patterns: dict[tuple[Any, ...], int]
    raters: int

    @classmethod
    def of(cls, ratings: Iterable[Rating]) -> _Units:
        """Gather them. Raises ValueError when somebody rates a unit twice."""
        said: dict[Hashable, dict[Hashable, Any]] = defaultdict(dict)
        for unit, rater, value in ratings:
            if rater in said[unit]:
                raise ValueError(f"{rater} rated {unit} twice.")
            said[unit][rater] = value
        shared = [by for by in said.values() if len(by) > 1]
        return cls(
            patterns=dict(Counter(tuple(sorted(by.values())) for by in shared)),
            raters=len({rater for by in shared for rater in by}),
        )

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.patterns.values())

    def agreement(
        self,
        value: float | None,
        *,
        low: float | None = None,
        high: float | None = None,
        why: str = "",
    ) -> Agreement:
        """Return a number with what it rests on."""
        values = sum(len(pattern) * times for pattern, times in self.patterns.items())
        return Agreement(value, low, high, self.count, self.raters, values, why)


def _alpha(units: _Units, distance: Distance) -> Agreement:
    if not units.patterns:
        return units.agreement(None, why=NO_UNITS)
    value = _alpha_of(units.patterns, distance)
    if value is None:
        return units.agreement(None, why=NO_VARIATION)
    error = _jackknife_error(units, distance)
    if not error:
        return units.agreement(value)
    low, high = value - Z95 * error, min(value + Z95 * error, 1.0)
    return units.agreement(value, low=low, high=high)


def _alpha_of(patterns: Patterns, distance: Distance) -> float | None:
    """Return 1 - D_o/D_e; None when chance could not have disagreed either.

    D_o = sum o_ck d²_ck / n, D_e = sum n_c n_k d²_ck / n(n-1) (Krippendorff 2011, section C and D).
    """
    matrix = coincidences(patterns)
    totals: dict[Any, float] = defaultdict(float)
    for (one, _), often in matrix.items():
        totals[one] += often
    n = sum(totals.values())
    apart = {(c, k): distance(c, k, totals) for c in totals for k in totals if c != k}
    expected = sum(totals[c] * totals[k] * d for (c, k), d in apart.items()) / (n * (n - 1))
    if not expected:
        return None
    observed = sum(matrix.get(two, 0.0) * d for two, d in apart.items()) / n
    return 1 - observed / expected


def _nominal(one: Any, other: Any, totals: Mapping[Any, float]) -> float:
    return float(one != other)


def _ordinal(one: Any, other: Any, totals: Mapping[Any, float]) -> float:
    """Return (sum of n_g from c to k, less half of n_c and n_k)²."""
    least, most = sorted((one, other))
    between = sum(often for value, often in totals.items() if least <= value <= most)
    return (between - (totals[one] + totals[other]) / 2) ** 2


def _jackknife_error(units: _Units, distance: Distance) -> float | None:
    """Return the standard error of alpha by leaving each unit out once; None where that says nothing.

    sqrt((N-1)/N · sum (alpha_-i - their mean)²) (Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
    11.5). Units with the same judgements leave the same alpha, so there are as many to work out as patterns.
    """
    if units.count < LEAST_UNITS:
        return None
    left: list[tuple[float, int]] = []
    for pattern, times in units.patterns.items():
        without = {**units.patterns, pattern: times - 1}
        value = _alpha_of({one: n for one, n in without.items() if n}, distance)
        if value is None:
            return None
        left.append((value, times))
    mean = sum(value * times for value, times in left) / units.count
    spread = sum(times * (value - mean) ** 2 for value, times in left)
    return sqrt((units.count - 1) / units.count * spread)


# --- One person ----------------------------------------------------------------------------------------


def agreement_with_others(ratings: Iterable[Rating]) -> dict[Hashable, Share]:
    """Return, of each rater, on what share of their units others said the same.

    A unit with several others counts as the part of them that agrees; units are taken for independent.
    """
    said: dict[Hashable, list[tuple[Hashable, Any]]] = defaultdict(list)
    for unit, rater, value in ratings:
        said[unit].append((rater, value))
    same: dict[Hashable, list[float]] = defaultdict(list)
    for by in said.values():
        values = [value for _, value in by]
        for rater, value in by if len(by) > 1 else ():
            same[rater].append((values.count(value) - 1) / (len(by) - 1))
    found = {rater: share(sum(parts), len(parts)) for rater, parts in same.items()}
    return {rater: one for rater, one in found.items() if one}


def consistency(twice: Sequence[tuple[Hashable, Hashable]]) -> Share | None:
    """Return how often somebody said the same about a thing both times."""
    return share(sum(before == after for before, after in twice), len(twice))
