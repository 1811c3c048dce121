from __future__ import annotations

from itertools import count
from math import sqrt

import pytest

from models_registry.stats import evidence
from models_registry.stats.evidence import Evidence, Vote, evidence_of


def votes(wins: int = 0, losses: int = 0, ties: int = 0, both_bad: int = 0) -> list[Vote]:
    """Make votes on prompts of their own, by five labelers in turn, the sides alternating."""
    kinds = ["win"] * wins + ["loss"] * losses + ["tie"] * ties + ["both_bad"] * both_bad
    return [
        Vote(prompt=f"p{n}", labeler=n % 5, kind=kind, candidate_left=n % 4 < 2, length=(-1.0) ** n)
        for n, kind in enumerate(kinds)
    ]


def checks(found: Evidence) -> dict[str, bool]:
    return {check.name: check.ok for check in found.checks}


def check(found: Evidence, name: str) -> evidence.Check:
    return next(one for one in found.checks if one.name == name)


def chances_to_cross(p: float, most: int) -> list[float]:
    """Return the exact probability that E reaches 20 within 0, 1, … `most` votes, each won with p.

    Walks over every number of wins; what has crossed stays there.
    """
    at, crossed = {0: 1.0}, [0.0]
    need = 0
    for n in range(1, most + 1):
        # E grows with the wins among n votes, and the wins that are needed grow with n.
        need = next(
            w for w in count(need) if evidence.evidence(wins=w, losses=n - w) >= 20 or w > n
        )
        after: dict[int, float] = {}
        for w, mass in at.items():
            after[w] = after.get(w, 0.0) + mass * (1 - p)
            after[w + 1] = after.get(w + 1, 0.0) + mass * p
        gone = [w for w in after if w >= need]
        crossed.append(crossed[-1] + sum(after.pop(w) for w in gone))
        at = {w: mass for w, mass in after.items() if mass > 1e-15}
    return crossed


class TestEvidence:
    @pytest.mark.parametrize(
        ("wins", "losses", "expected"),
        [
            # No vote, no evidence: every product is empty.
            (0, 0, 1.0),
            # The mean of 2p is 2 · (.53 + .80)/2 = 1.33, of 2(1-p) therefore .67.
            (1, 0, 1.33),
            (0, 1, 0.67),
            # The mean of 4p² is 4 · (.665² + .03² · (10² - 1)/12) = 4 · (.442225 + .007425) = 1.7986.
            (2, 0, 1.7986),
            # 4p(1-p) = 4p - 4p²: 4 · .665 - 1.7986 = .8614.
            (1, 1, 0.8614),
        ],
    )
    def test_is_the_mean_of_what_the_bets_made(self, wins, losses, expected) -> None:
        assert evidence.evidence(wins=wins, losses=losses) == pytest.approx(expected, abs=1e-12)

    def test_of_the_worked_example(self) -> None:
        # 58.9 % of 372 decisive votes are 219 wins: evidence 76.
        assert evidence.evidence(wins=219, losses=153) == pytest.approx(76.5, abs=0.05)

    def test_rarely_speaks_for_a_candidate_that_is_no_better(self) -> None:
        crossed = chances_to_cross(0.5, 1500)[-1]

        assert crossed <= 0.05
        # By simulation it was 4.6 %.
        assert crossed == pytest.approx(0.046, abs=0.005)

    def test_rarely_speaks_against_one_that_is_worth_it(self) -> None:
        # One step keeps the expectation at 1 when 53 % are won: then Ville's inequality holds.
        win = evidence.evidence_against(wins=1, losses=0)
        loss = evidence.evidence_against(wins=0, losses=1)

        assert 0.53 * win + 0.47 * loss == pytest.approx(1)
        assert win < 1 < loss

    @pytest.mark.parametrize(("p", "median"), [(0.60, 147), (0.65, 59), (0.70, 34)])
    def test_needs_about_as_many_votes_as_the_simulation_did(self, p: float, median: int) -> None:
        crossed = chances_to_cross(p, 3 * median)

        half = next(n for n, chance in enumerate(crossed) if chance >= 0.5)
        assert half == pytest.approx(median, rel=0.06)

    def test_survives_ten_thousand_wins(self) -> None:
        assert evidence.evidence(wins=10_000, losses=0) > 1e300


class TestVotesNeeded:
    @pytest.mark.parametrize("rate", [0.55, 0.6, 0.7, 0.95])
    def test_is_the_first_number_that_is_enough(self, rate: float) -> None:
        needed = evidence.votes_needed(rate)

        assert needed is not None
        assert evidence.evidence(wins=rate * needed, losses=(1 - rate) * needed) >= 20
        fewer = needed - 1
        assert evidence.evidence(wins=rate * fewer, losses=(1 - rate) * fewer) < 20

    @pytest.mark.parametrize("rate", [0.0, 0.5, 0.51])
    def test_is_none_for_a_win_rate_that_is_never_proved(self, rate: float) -> None:
        assert evidence.votes_needed(rate) is None


class TestWinRate:
    def test_is_none_without_a_decisive_vote(self) -> None:
        assert evidence.win_rate(votes(ties=3, both_bad=2)) is None

    def test_has_wilson_interval(self) -> None:
        rate = evidence.win_rate(votes(wins=8, losses=2, ties=5))

        # p = .8, n = 10, z² = 3.8415: middle (.8 + .192073)/1.384146 = .716740; half width
        # 1.959964 · sqrt(.016 + .009604)/1.384146 = 1.959964 · .160012/1.384146 = .226578.
        assert rate is not None
        assert rate.value == 0.8
        assert rate.low == pytest.approx(0.716740 - 0.226578, abs=2e-6)
        assert rate.high == pytest.approx(0.716740 + 0.226578, abs=2e-6)

    def test_of_the_worked_example(self) -> None:
        rate = evidence.win_rate(votes(wins=219, losses=153))

        assert rate is not None
        assert [round(100 * one, 1) for one in (rate.value, rate.low, rate.high)] == [
            58.9,
            53.8,
            63.8,
        ]

    def test_counts_votes_on_one_prompt_for_what_they_are_worth(self) -> None:
        # Three prompts of two votes: 2, 2 and 0 won. p = 4/6; residuals won - p·2 = 2/3, 2/3, -4/3;
        # squares 4/9 + 4/9 + 16/9 = 24/9; V = 3/2 · (24/9)/36 = 1/9; p(1-p)/V = (2/9)/(1/9) = 2.
        given = [
            Vote(prompt=prompt, labeler=1, kind=kind)
            for prompt, kind in [("a", "win"), ("b", "win"), ("c", "loss")]
            for _ in range(2)
        ]

        rate = evidence.win_rate(given)

        expected = evidence.wilson(4 / 6, 2)
        assert rate is not None
        assert rate.low == pytest.approx(expected.low)
        assert rate.high == pytest.approx(expected.high)

    def test_never_counts_more_votes_than_there_are(self) -> None:
        # Both prompts are split evenly: no variance between them at all.
        given = [
            Vote(prompt=prompt, labeler=1, kind=kind)
            for prompt in ("a", "b")
            for kind in ("win", "loss")
        ]

        assert evidence.win_rate(given) == evidence.wilson(0.5, 2)

    @pytest.mark.parametrize(("wins", "losses"), [(1, 0), (0, 1), (5, 0)])
    def test_stays_between_none_and_all(self, wins: int, losses: int) -> None:
        rate = evidence.win_rate(votes(wins=wins, losses=losses))

        assert rate is not None
        assert 0 <= rate.low < rate.high <= 1


class TestFirstVotes:
    def test_takes_one_of_each_prompt(self) -> None:
        given = [
            Vote(prompt="a", labeler=1, kind="tie"),
            Vote(prompt="a", labeler=2, kind="loss"),
            Vote(prompt="a", labeler=3, kind="win"),
            Vote(prompt="b", labeler=3, kind="win"),
        ]

        assert [vote.kind for vote in evidence.first_votes(given)] == ["loss", "win"]
        assert evidence_of(given).evidence == evidence.evidence(wins=1, losses=1)


class TestLengthControlled:
    def test_is_half_when_length_explains_everything(self) -> None:
        # As many shorter losses as longer wins, and equal ones are split: symmetric, so a = 0.
        measured = [(1.0, True)] * 20 + [(-1.0, False)] * 20 + [(0.0, True), (0.0, False)] * 10

        assert evidence.length_controlled(measured) == pytest.approx(0.5)

    def test_is_about_the_win_rate_when_length_explains_nothing(self) -> None:
        measured = [(x, won) for x in (-1.0, 1.0) for won in (True, True, True, False)] * 50

        # Three of four; the ridge pulls a hair towards half.
        assert evidence.length_controlled(measured) == pytest.approx(0.75, abs=0.001)

    def test_copes_with_answers_that_are_all_as_long(self) -> None:
        assert evidence.length_controlled([(0.0, True)] * 30) > 0.9


class TestGate:
    def test_holds_for_the_worked_example(self) -> None:
        found = evidence_of(votes(219, 153, 85, 28), earlier=[True] * 9 + [False] * 91)

        assert checks(found) == {
            "evidence": True, "decisive_votes": True, "prompts": True, "labelers": True,
            "labeler_share": True, "both_bad": True, "left_rate": True, "length_controlled": True,
        }  # fmt: skip
        assert found.passed
        assert found.is_decided
        assert (found.votes, found.decisive) == (485, 372)
        assert check(found, "evidence").sentence == "The evidence is 76×; 20× is needed."  # noqa: RUF001

    def test_says_what_could_not_be_checked(self) -> None:
        found = evidence_of([])

        assert found.win_rate is None
        assert found.evidence == 1
        assert not found.passed
        assert not found.is_decided
        assert len(found.left_out) == 4
        assert set(checks(found)) == {
            "evidence", "decisive_votes", "prompts", "labelers", "labeler_share",
        }  # fmt: skip

    def test_waits_for_enough_votes_and_prompts(self) -> None:
        found = evidence_of(votes(wins=70, losses=9))

        assert found.evidence > 20
        assert not checks(found)["decisive_votes"]
        assert not checks(found)["prompts"]

    def test_counts_prompts_and_not_votes(self) -> None:
        given = [Vote(prompt=f"p{n % 40}", labeler=n % 5, kind="win") for n in range(120)]

        found = checks(evidence_of(given))

        assert found["decisive_votes"]
        assert not found["prompts"]

    def test_asks_for_three_labelers_none_of_whom_decides_alone(self) -> None:
        given = [Vote(prompt=f"p{n}", labeler=min(n % 10, 1), kind="win") for n in range(100)]

        found = evidence_of(given)

        assert not checks(found)["labelers"]
        assert check(found, "labeler_share").value == 0.9
        assert not checks(found)["labeler_share"]

    @pytest.mark.parametrize(("both_bad", "is_kept"), [(8, True), (40, False)])
    def test_refuses_more_bad_answers_than_before(self, both_bad: int, is_kept: bool) -> None:
        # Of 100: 8 against 5 may be chance; 40 against 5 is not.
        found = evidence_of(
            votes(wins=100 - both_bad, both_bad=both_bad), earlier=[True] * 5 + [False] * 95
        )

        assert checks(found)["both_bad"] is is_kept

    @pytest.mark.parametrize(("wins", "is_kept"), [(13, True), (4, False)])
    def test_refuses_a_tag_that_got_worse(self, wins: int, is_kept: bool) -> None:
        given = votes(wins=100) + [
            Vote(prompt=f"t{n}", labeler=n % 5, kind="win" if n < wins else "loss", tags=("code",))
            for n in range(30)
        ]

        assert checks(evidence_of(given))["tags"] is is_kept

    def test_refuses_votes_for_the_left_of_unequal_sides(self) -> None:
        lopsided = [
            Vote(prompt=f"p{n}", labeler=n % 5, kind="win", candidate_left=True) for n in range(40)
        ]
        balanced = [
            Vote(
                prompt=f"p{n}", labeler=n % 5, kind="win" if n % 2 else "loss",
                candidate_left=bool(n % 2),
            )
            for n in range(40)
        ]  # fmt: skip

        assert not checks(evidence_of(lopsided))["left_rate"]
        # All votes are for the left, but that helped neither.
        assert checks(evidence_of(balanced))["left_rate"]

    def test_refuses_a_candidate_that_only_wins_by_length(self) -> None:
        # Longer in most cases and then it wins; equal or shorter it loses.
        given = [Vote(prompt=f"p{n}", labeler=n % 5, kind="win", length=1.0) for n in range(90)] + [
            Vote(prompt=f"q{n}", labeler=n % 5, kind="loss", length=0.0) for n in range(30)
        ]

        found = evidence_of(given)

        assert found.evidence > 20
        assert not checks(found)["length_controlled"]

    def test_gives_up_on_a_candidate_that_loses(self) -> None:
        found = evidence_of(votes(wins=30, losses=70))

        assert found.is_futile
        assert found.is_decided
        assert not found.passed
        assert found.votes_needed is None

    def test_wilson_contains_what_it_should(self) -> None:
        rate = evidence.wilson(0.5, 100)

        assert rate.high - rate.low == pytest.approx(2 * 1.96 * sqrt(0.25 / 100), rel=0.03)
