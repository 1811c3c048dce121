from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations

import pytest

from models_registry.stats import agreement
from models_registry.stats.agreement import (
    Rating,
    agreement_with_others,
    alpha_nominal,
    alpha_ordinal,
    coincidences,
    consistency,
    raw_agreement,
    share,
)

#: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, and
#: what some of them left open. He gives .743 for the nominal alpha and .815 for the ordinal one.
PUBLISHED = {
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}


def table(rows: dict[str, str]) -> list[Rating]:
    """Read a rater's values in a row, a unit in a column, a dot where they said nothing."""
    return [
        (unit, rater, value if value.isalpha() else int(value))
        for rater, values in rows.items()
        for unit, value in enumerate(values.split())
        if value != "."
    ]


def patterns(rows: dict[str, str]) -> dict[tuple[object, ...], int]:
    return agreement._Units.of(table(rows)).patterns


class TestCoincidences:
    def test_counts_each_judgement_once(self) -> None:
        # u1: a b -> ab 1, ba 1. u2: a a -> aa 2. u3: a a b -> aa 2/2, ab 2/2, ba 2/2. u4: one judgement, left out.
        rows = {"A": "a a a a", "B": "b a a .", "C": ". . b ."}

        assert coincidences(patterns(rows)) == {
            ("a", "a"): 3, ("a", "b"): 2, ("b", "a"): 2,
        }  # fmt: skip
        # 2 + 2 + 3 judgements.
        assert sum(coincidences(patterns(rows)).values()) == 7

    def test_are_those_that_krippendorff_prints(self) -> None:
        # His matrix, worked out by hand from the eleven pairable units; the last one has one value.
        #        1    2     3     4    5
        # 1      7   4/3   1/3   1/3   0
        # 2     4/3   10   4/3   1/3   0
        # 3     1/3  4/3    8    1/3   0
        # 4     1/3  1/3   1/3    4    0
        # 5      0    0     0     0    3
        third = Fraction(1, 3)
        upper = {
            (1, 2): 4 * third,
            (1, 3): third,
            (1, 4): third,
            (2, 3): 4 * third,
            (2, 4): third,
            (3, 4): third,
        }
        by_hand = {(c, c): n for c, n in zip(range(1, 6), (7, 10, 8, 4, 3), strict=True)}
        by_hand |= upper | {(k, c): n for (c, k), n in upper.items()}

        found = coincidences(patterns(PUBLISHED))

        assert found == pytest.approx({two: float(n) for two, n in by_hand.items()})
        assert sum(found.values()) == pytest.approx(40)


class TestAlpha:
    def test_of_two_raters_is_what_hand_and_paper_give(self) -> None:
        # 10 units, of which two differ:
        #        a   b   c
        #   a    8   1   0      n_a = 9
        #   b    1   6   1      n_b = 8
        #   c    0   1   2      n_c = 3      n = 20
        # D_o = 4/20; D_e = (9·8 + 9·3 + 8·3)·2 / (20·19) = 246/380
        # alpha = 1 - (4/20)/(246/380) = 1 - 76/246
        rows = {"A": "a a a a b b b c a b", "B": "a a a a b b b c b c"}

        found = alpha_nominal(table(rows))

        assert found.value == pytest.approx(float(1 - Fraction(76, 246)))
        assert (found.units, found.raters, found.values) == (10, 2, 20)

    def test_nominal_is_krippendorffs_published_value(self) -> None:
        # n_c = 9, 13, 10, 5, 3; agreement 32 of 40; sum n_c(n_c - 1) = 72+156+90+20+6 = 344.
        # alpha = 1 - (40-1)(40-32)/(40·39-344) = 1 - 312/1216
        found = alpha_nominal(table(PUBLISHED))

        assert found.value == pytest.approx(float(1 - Fraction(312, 1216)))
        assert round(found.value or 0, 3) == 0.743
        assert (found.units, found.raters, found.values) == (11, 4, 40)

    def test_ordinal_is_krippendorffs_published_value(self) -> None:
        assert round(alpha_ordinal(table(PUBLISHED)).value or 0, 3) == 0.815

    def test_ordinal_by_hand(self) -> None:
        # -2 -2 | -2 0 | 0 0 | 2 2 | 2 0:
        #        -2   0   2
        #  -2     2   1   0     n = 3
        #   0     1   2   1     n = 4
        #   2     0   1   2     n = 3, together 10
        # d²(-2,0) = (3+4 - 7/2)² = 12.25 = d²(0,2); d²(-2,2) = (3+4+3 - 3)² = 49
        # D_o = (1+1+1+1)·12.25/10 = 4.9
        # D_e = 2·(3·4·12.25 + 4·3·12.25 + 3·3·49)/(10·9) = 2·735/90 = 49/3
        # alpha = 1 - 4.9/(49/3) = .7
        rows = {"A": "-2 -2 0 2 2", "B": "-2 0 0 2 0"}

        assert alpha_ordinal(table(rows)).value == pytest.approx(0.7)

    def test_ordinal_forgives_neighbours_what_it_holds_against_opposites(self) -> None:
        near = {"A": "2 2 -2 -2 1 -1", "B": "1 2 -1 -2 2 -2"}
        far = {"A": "2 2 -2 -2 1 -1", "B": "-2 -2 2 2 -1 1"}

        assert (alpha_ordinal(table(near)).value or 0) > 0.6
        assert (alpha_ordinal(table(far)).value or 0) < 0

    def test_is_one_when_all_agree_and_negative_when_they_never_do(self) -> None:
        assert alpha_nominal(table({"A": "a b a b", "B": "a b a b"})).value == 1
        # D_o = 1; D_e = 2·4·4/(8·7) = 32/56
        opposite = alpha_nominal(table({"A": "a b a b", "B": "b a b a"}))
        assert opposite.value == pytest.approx(1 - 56 / 32)

    def test_is_about_zero_when_people_toss_coins(self) -> None:
        chance = random.Random(6)
        tossed = [
            (unit, rater, chance.choice(["first", "second"]))
            for unit in range(4000)
            for rater in "AB"
        ]

        found = alpha_nominal(tossed)

        assert found.value == pytest.approx(0, abs=0.04)
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0 < found.high
        # 1/sqrt(4000) is the error of a correlation of 4,000 independent units.
        assert found.high - found.low == pytest.approx(2 * 1.96 / 4000**0.5, rel=0.05)

    @pytest.mark.parametrize("alpha", [alpha_nominal, alpha_ordinal])
    def test_is_the_same_in_any_order(self, alpha: object) -> None:
        ratings = table(PUBLISHED)
        shuffled = random.Random(1).sample(ratings, len(ratings))

        assert callable(alpha)
        before, after = alpha(ratings), alpha(shuffled)

        assert before.value == pytest.approx(after.value)
        assert before.low == pytest.approx(after.low)

    def test_is_the_same_under_other_names(self) -> None:
        """Which of two completions is called the first must not matter."""
        names = {1: "tie", 2: "second", 3: "first", 4: "both_bad", 5: "other"}
        ratings = table(PUBLISHED)
        renamed = [(unit, rater, names[value]) for unit, rater, value in ratings]
        mirrored = [(unit, rater, -value) for unit, rater, value in ratings]

        assert alpha_nominal(renamed).value == pytest.approx(alpha_nominal(ratings).value)
        assert alpha_ordinal(mirrored).value == pytest.approx(alpha_ordinal(ratings).value)

    def test_leaves_units_out_that_one_person_judged(self) -> None:
        rows = {"A": "a b a b a", "B": "a b b b a"}
        alone = [("alone", "A", "b"), ("alone too", "B", "a"), ("third", "C", "a")]

        with_them = alpha_nominal(table(rows) + alone)

        assert with_them == alpha_nominal(table(rows))
        assert with_them.raters == 2

    @pytest.mark.parametrize("ratings", [[], [(1, "A", "a"), (2, "A", "b"), (3, "B", "a")]])
    def test_is_undefined_where_nothing_was_judged_twice(self, ratings: list[Rating]) -> None:
        for found in (alpha_nominal(ratings), raw_agreement(ratings)):
            assert (found.value, found.low, found.units) == (None, None, 0)
            assert found.why == agreement.NO_UNITS

    def test_is_undefined_where_nothing_varies(self) -> None:
        """Neither 1 nor NaN: chance would have agreed as well."""
        found = alpha_nominal(table({"A": "a a a", "B": "a a a"}))

        assert (found.value, found.why) == (None, agreement.NO_VARIATION)
        assert found.units == 3

    def test_refuses_two_values_of_one_rater(self) -> None:
        with pytest.raises(ValueError, match="A rated 1 twice"):
            alpha_nominal([(1, "A", "a"), (1, "A", "b")])


class TestInterval:
    def test_is_that_of_leaving_every_unit_out_once(self) -> None:
        ratings = table(PUBLISHED)
        units = sorted({unit for unit, _, _ in ratings} - {11})
        left = [
            alpha_nominal([one for one in ratings if one[0] != unit]).value or 0 for unit in units
        ]
        mean = sum(left) / 11
        error = (10 / 11 * sum((one - mean) ** 2 for one in left)) ** 0.5

        found = alpha_nominal(ratings)

        assert found.low == pytest.approx((found.value or 0) - 1.959964 * error, abs=1e-6)
        assert found.high == 1.0 or found.high == pytest.approx(
            (found.value or 0) + 1.959964 * error, abs=1e-6
        )

    def test_is_missing_where_nobody_disagreed(self) -> None:
        """A width of nothing would claim certainty."""
        found = alpha_nominal(table({"A": "a b " * 10, "B": "a b " * 10}))

        assert (found.value, found.low, found.high) == (1, None, None)

    def test_is_missing_below_ten_units(self) -> None:
        found = alpha_nominal(table({"A": "a b a b a a b a b", "B": "a b a b a a b a a"}))

        assert found.units == 9
        assert found.value is not None
        assert found.low is None


class TestRawAgreement:
    def test_is_the_share_of_pairs_of_judgements(self) -> None:
        # Of the published data, pairable values: 32 of 40 on the diagonal.
        found = raw_agreement(table(PUBLISHED))

        assert found.value == pytest.approx(32 / 40)
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0.8 < found.high

    def test_of_two_raters_is_how_often_they_say_the_same(self) -> None:
        assert raw_agreement(table({"A": "a a b b", "B": "a a b a"})).value == pytest.approx(0.75)

    def test_of_three_counts_every_two_of_them(self) -> None:
        values = ["a", "a", "b"]
        same = [one == other for one, other in combinations(values, 2)]
        ratings = [(1, rater, value) for rater, value in zip("ABC", values, strict=True)]

        assert raw_agreement(ratings).value == pytest.approx(sum(same) / len(same))

    def test_stays_defined_without_variation(self) -> None:
        found = raw_agreement(table({"A": "a a a", "B": "a a a"}))

        assert found.value == 1
        assert found.low is not None
        assert found.low < 0.5


class TestOnePerson:
    def test_agreement_with_others_is_by_units(self) -> None:
        # B agrees with A on three of four, C with half of both on the one that it judged.
        ratings = table({"A": "a a b b", "B": "a a b a", "C": "b . . ."})

        found = agreement_with_others([*ratings, ("alone", "D", "a")])

        assert (found["A"].value, found["A"].n) == ((0.5 + 1 + 1 + 0) / 4, 4)
        assert found["B"].value == (0.5 + 1 + 1 + 0) / 4
        assert (found["C"].value, found["C"].n) == (0, 1)
        assert "D" not in found

    def test_consistency_is_how_often_the_same_is_said_again(self) -> None:
        found = consistency([("first", "first"), ("first", "second"), ("second", "second")])

        assert found is not None
        assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
        assert consistency([]) is None

    def test_share_is_wilsons(self) -> None:
        # (15 + z²/2 ± z sqrt(15·5/20 + z²/4)) / (20 + z²), z² = 3.8415: (16.9207 ± 4.2538)/23.8415
        found = share(15, 20)

        assert found is not None
        assert (round(found.low, 4), round(found.high, 4)) == (0.5313, 0.8881)
        assert found.excludes(0.5)
        assert not found.excludes(0.6)
        assert share(0, 0) is None
