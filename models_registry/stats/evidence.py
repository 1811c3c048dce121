"""What the judgements of a comparison prove. Plain Python: no Django, no arrays.

The test is a mixture of likelihood ratios, which stays valid however often somebody looks (Ville 1939; Robbins
1970; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference", arXiv 2210.01948).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist, fmean, pstdev
from typing import Literal

#: Win rates that the evidence for the candidate bets on: .53, .56, …, .80.
BETS = tuple(round(0.53 + 0.03 * step, 2) for step in range(10))
#: The least win rate that is worth a promotion; the evidence against the candidate bets on lower ones.
WORTH = 0.53
BETS_AGAINST = tuple(round(0.20 + 0.03 * step, 2) for step in range(11))

NEEDED_EVIDENCE = 20.0
NEEDED_VOTES = 100
NEEDED_PROMPTS = 80
NEEDED_LABELERS = 3
MOST_OF_ONE_LABELER = 0.4
MOST_MORE_BOTH_BAD = 0.03
LEAST_TAG_RATE = 0.45
#: Below so many votes, a share says nothing.
LEAST_VOTES = 30

Z95 = NormalDist().inv_cdf(0.975)

Kind = Literal["win", "loss", "tie", "both_bad"]


@dataclass(frozen=True, slots=True)
class Vote:
    """One judgement, as it is for the candidate."""

    prompt: str
    labeler: int
    kind: Kind
    tags: tuple[str, ...] = ()
    #: Whether the candidate's answer was on the left; None: nobody knows.
    candidate_left: bool | None = None
    #: Logarithm of the candidate's length over the incumbent's; None: nobody knows.
    length: float | None = None

    @property
    def is_decisive(self) -> bool:
        """Whether it prefers one of the two."""
        return self.kind in {"win", "loss"}

    @property
    def won(self) -> bool:
        """Whether it prefers the candidate."""
        return self.kind == "win"


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a promotion and how it stands."""

    name: str
    ok: bool
    value: float
    bound: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the votes of a comparison say."""

    wins: int
    losses: int
    ties: int
    both_bad: int
    #: None before the first decisive vote.
    win_rate: Rate | None
    #: How many times likelier the votes are if the candidate is better than if it is not.
    evidence: float
    #: The same for "it wins less than 53 %".
    evidence_against: float
    #: Decisive votes, one a prompt, after which the present win rate is proved; None: it never is.
    votes_needed: int | None
    checks: tuple[Check, ...]
    #: Why other conditions could not be checked.
    left_out: tuple[str, ...]

    @property
    def votes(self) -> int:
        """All votes."""
        return self.decisive + self.ties + self.both_bad

    @property
    def decisive(self) -> int:
        """Votes that prefer one of the two."""
        return self.wins + self.losses

    @property
    def passed(self) -> bool:
        """Whether every condition that could be checked holds."""
        return all(check.ok for check in self.checks)

    @property
    def is_futile(self) -> bool:
        """Whether it is as good as certain that the candidate is not worth a promotion."""
        return self.evidence_against >= NEEDED_EVIDENCE

    @property
    def is_decided(self) -> bool:
        """Whether more votes would change nothing."""
        return self.passed or self.is_futile


def evidence_of(votes: Sequence[Vote], *, earlier: Sequence[bool] = ()) -> Evidence:
    """Weigh votes in the order in which they were given.

    `earlier` says of each vote on the incumbent in other comparisons whether it was "both bad".
    """
    kinds = Counter(vote.kind for vote in votes)
    first = first_votes(votes)
    wins = sum(vote.won for vote in first)
    value = evidence(wins=wins, losses=len(first) - wins)
    rate = win_rate(votes)
    found = [
        _evidence_check(value),
        *_amount_checks(votes),
        _both_bad_check(kinds["both_bad"], len(votes), earlier),
        _tags_check(votes),
        _left_check(votes),
        _length_check(votes),
    ]
    return Evidence(
        wins=kinds["win"],
        losses=kinds["loss"],
        ties=kinds["tie"],
        both_bad=kinds["both_bad"],
        win_rate=rate,
        evidence=value,
        evidence_against=evidence_against(wins=wins, losses=len(first) - wins),
        votes_needed=votes_needed(rate.value) if rate else None,
        checks=tuple(check for check in found if isinstance(check, Check)),
        left_out=tuple(why for why in found if isinstance(why, str)),
    )


def first_votes(votes: Iterable[Vote]) -> list[Vote]:
    """Return the first decisive vote of each prompt: only those are independent of each other."""
    first: dict[str, Vote] = {}
    for vote in votes:
        if vote.is_decisive:
            first.setdefault(vote.prompt, vote)
    return list(first.values())


def evidence(*, wins: float, losses: float) -> float:
    """Return E = mean over the bets p of (2p)^wins (2(1-p))^losses.

    While the candidate wins no more than half, the expectation of E never grows, so E reaches 20 with a
    probability of at most 1/20 in all time (Ville's inequality).
    """
    return _mean_exp([wins * log(2 * p) + losses * log(2 * (1 - p)) for p in BETS])


def evidence_against(*, wins: float, losses: float) -> float:
    """Return the mean over lower win rates q of (q/.53)^wins ((1-q)/.47)^losses.

    The same test of "the candidate wins 53 % or more": from 20 on, the anytime-valid upper bound of its win
    rate at 95 % is below 53 %.
    """
    return _mean_exp(
        [wins * log(q / WORTH) + losses * log((1 - q) / (1 - WORTH)) for q in BETS_AGAINST]
    )


def _mean_exp(logs: Sequence[float]) -> float:
    # A thousand wins in a row stay far below the largest float; more are not worth an exception.
    return fmean(exp(min(one, 700.0)) for one in logs)


def votes_needed(rate: float) -> int | None:
    """Return how many votes make E reach 20 when exactly this share is won; None when no number does.

    A cautious figure: near .5, chance takes most comparisons there sooner.
    """
    if max(rate * log(2 * p) + (1 - rate) * log(2 * (1 - p)) for p in BETS) <= 0:
        return None
    low, high = 0, 1
    while evidence(wins=rate * high, losses=(1 - rate) * high) < NEEDED_EVIDENCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if evidence(wins=rate * middle, losses=(1 - rate) * middle) < NEEDED_EVIDENCE:
            low = middle
        else:
            high = middle
    return high


def win_rate(votes: Iterable[Vote]) -> Rate | None:
    """Return the share of decisive votes that the candidate won, None without any.

    The interval is Wilson's with the effective number of votes: p(1-p)/V, where V is the variance of the
    ratio sum(wins)/sum(votes) over prompts (Cochran 1977, "Sampling Techniques", 6.3): votes on one prompt are
    not independent.
    """
    by_prompt: dict[str, list[bool]] = {}
    for vote in votes:
        if vote.is_decisive:
            by_prompt.setdefault(vote.prompt, []).append(vote.won)
    if not by_prompt:
        return None
    total = sum(map(len, by_prompt.values()))
    p = sum(map(sum, by_prompt.values())) / total
    return wilson(p, _effective(by_prompt.values(), p, total))


def _effective(clusters: Iterable[Sequence[bool]], p: float, total: int) -> float:
    """Return how many independent votes the clustered ones are worth: never more than there are."""
    sizes = [(sum(cluster), len(cluster)) for cluster in clusters]
    count = len(sizes)
    if count == total:
        return total
    spread = sum((won - p * votes) ** 2 for won, votes in sizes)
    if count == 1 or spread == 0:
        return count
    variance = count / (count - 1) * spread / total**2
    return min(p * (1 - p) / variance, total)


def wilson(p: float, n: float) -> Rate:
    """Return the share p of n with its 95 % interval.

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927, JASA 22).
    """
    z2 = Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * sqrt(p * (1 - p) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return Rate(value=p, low=max(middle - half, 0.0), high=min(middle + half, 1.0))


# --- The gate ------------------------------------------------------------------------------------------


def _evidence_check(value: float) -> Check:
    shown = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
    return Check(
        "evidence", value >= NEEDED_EVIDENCE, value, NEEDED_EVIDENCE,
        f"The evidence is {shown}\N{MULTIPLICATION SIGN}; {NEEDED_EVIDENCE:.0f}\N{MULTIPLICATION SIGN} is needed.",
    )  # fmt: skip


def _amount_checks(votes: Sequence[Vote]) -> list[Check]:
    """Ask for enough votes on enough prompts by enough people."""
    decisive = [vote for vote in votes if vote.is_decisive]
    prompts = len({vote.prompt for vote in decisive})
    labelers = Counter(vote.labeler for vote in votes)
    share = max(labelers.values()) / len(votes) if votes else 0.0
    return [
        Check(
            "decisive_votes", len(decisive) >= NEEDED_VOTES, len(decisive), NEEDED_VOTES,
            f"{len(decisive)} of at least {NEEDED_VOTES} decisive votes.",
        ),
        Check(
            "prompts", prompts >= NEEDED_PROMPTS, prompts, NEEDED_PROMPTS,
            f"{prompts} of at least {NEEDED_PROMPTS} prompts.",
        ),
        Check(
            "labelers", len(labelers) >= NEEDED_LABELERS, len(labelers), NEEDED_LABELERS,
            f"{len(labelers)} of at least {NEEDED_LABELERS} labelers.",
        ),
        Check(
            "labeler_share", share <= MOST_OF_ONE_LABELER, share, MOST_OF_ONE_LABELER,
            f"One labeler gave {share:.0%} of the votes; at most {MOST_OF_ONE_LABELER:.0%} may be one's.",
        ),
    ]  # fmt: skip


def _both_bad_check(both_bad: int, votes: int, earlier: Sequence[bool]) -> Check | str:
    """Ask that "both bad" is not surely more than three points commoner than it was for the incumbent."""
    if votes < LEAST_VOTES or len(earlier) < LEAST_VOTES:
        return (
            f"Whether “both bad” became commoner is checked from {LEAST_VOTES} votes on, with as many on the"
            f" incumbent in earlier comparisons; there are {votes} and {len(earlier)}."
        )
    now, before = both_bad / votes, fmean(earlier)
    more = now - before
    error = sqrt(now * (1 - now) / votes + before * (1 - before) / len(earlier))
    return Check(
        "both_bad", more - Z95 * error <= MOST_MORE_BOTH_BAD, more, MOST_MORE_BOTH_BAD,
        f"“Both bad” is {now:.0%} of the votes, {before:.0%} in earlier comparisons; it may rise by"
        f" {100 * MOST_MORE_BOTH_BAD:.0f} points, beyond chance.",
    )  # fmt: skip


def _tags_check(votes: Sequence[Vote]) -> Check | str:
    """Ask that the candidate is not surely worse on the prompts of any tag."""
    by_tag: dict[str, list[Vote]] = {}
    for vote in votes:
        for tag in vote.tags if vote.is_decisive else ():
            by_tag.setdefault(tag, []).append(vote)
    rates = {
        tag: rate
        for tag, tagged in by_tag.items()
        if len(tagged) >= LEAST_VOTES and (rate := win_rate(tagged))
    }
    if not rates:
        return f"Single tags are checked from {LEAST_VOTES} decisive votes on one tag on."
    worst = min(rates, key=lambda tag: (rates[tag].high, tag))
    high = rates[worst].high
    return Check(
        "tags", high >= LEAST_TAG_RATE, high, LEAST_TAG_RATE,
        f"On its worst tag, {worst}, it wins {rates[worst].value:.0%}, at most {high:.0%};"
        f" {LEAST_TAG_RATE:.0%} must be possible.",
    )  # fmt: skip


def _left_check(votes: Sequence[Vote]) -> Check | str:
    """Ask that the left side wins half of the votes, or that each version was there half of the time."""
    placed = [vote for vote in votes if vote.is_decisive and vote.candidate_left is not None]
    if len(placed) < LEAST_VOTES:
        return f"The left side's win rate is checked from {LEAST_VOTES} decisive votes on; there are {len(placed)}."
    left = wilson(fmean(vote.candidate_left == vote.won for vote in placed), len(placed))
    sides = wilson(fmean(bool(vote.candidate_left) for vote in placed), len(placed))
    return Check(
        "left_rate", any(rate.low <= 0.5 <= rate.high for rate in (left, sides)), left.value, 0.5,
        f"The left side won {left.value:.0%}, and the candidate was there {sides.value:.0%} of the time; one of"
        " both must be half, within chance.",
    )  # fmt: skip


def _length_check(votes: Sequence[Vote]) -> Check | str:
    """Ask that the candidate would also win if its answers were as long as the incumbent's."""
    measured = [
        (vote.length, vote.won) for vote in votes if vote.is_decisive and vote.length is not None
    ]
    if len(measured) < LEAST_VOTES:
        return (
            f"The win rate at equal length is checked from {LEAST_VOTES} decisive votes on; there are"
            f" {len(measured)}."
        )
    rate = length_controlled(measured)
    return Check(
        "length_controlled", rate >= 0.5, rate, 0.5,
        f"At equal length it would win {rate:.0%}; half is needed.",
    )  # fmt: skip


def length_controlled(measured: Sequence[tuple[float, bool]]) -> float:
    """Return the win rate at equal length, from (log length ratio, won).

    The intercept of the logistic regression logit P(won) = a + b·length, by Newton's method with a weak ridge
    on both (Dubois et al. 2024, "Length-Controlled AlpacaEval", arXiv 2404.04475, without their model terms).
    """
    scale = pstdev(length for length, _ in measured) or 1.0
    rows = [(length / scale, float(won)) for length, won in measured]
    a = b = 0.0
    ridge = 0.1
    for _ in range(30):
        chances = [(x, y, 1 / (1 + exp(-max(min(a + b * x, 30.0), -30.0)))) for x, y in rows]
        gradient_a = sum(y - p for _, y, p in chances) - ridge * a
        gradient_b = sum((y - p) * x for x, y, p in chances) - ridge * b
        weights = [(x, p * (1 - p)) for x, _, p in chances]
        aa = sum(w for _, w in weights) + ridge
        ab = sum(w * x for x, w in weights)
        bb = sum(w * x * x for x, w in weights) + ridge
        determinant = aa * bb - ab * ab
        a += (bb * gradient_a - ab * gradient_b) / determinant
        b += (aa * gradient_b - ab * gradient_a) / determinant
    return 1 / (1 + exp(-a))
