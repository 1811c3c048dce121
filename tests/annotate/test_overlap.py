from __future__ import annotations

import random

import pytest

from annotate.overlap import Opinion, Rules, wants_another

NEVER = Rules(overlap_most=3, second_if_slight=False, second_of_new=0, audit_share=0.0)
SLIGHT = Rules(overlap_most=3, second_if_slight=True, second_of_new=0, audit_share=0.0)
NEW = Rules(overlap_most=3, second_if_slight=False, second_of_new=20, audit_share=0.0)
AUDIT = Rules(overlap_most=3, second_if_slight=False, second_of_new=0, audit_share=1.0)
ALONE = Rules(overlap_most=1, second_if_slight=True, second_of_new=20, audit_share=1.0)


def asked(rules: Rules, opinion: Opinion, *others: Opinion, judged_before: int = 100) -> bool:
    return wants_another(
        opinion, others=others, rules=rules, judged_before=judged_before, chance=random.Random(1)
    )


@pytest.mark.parametrize(
    ("rules", "verdict", "expected"),
    [
        (NEVER, "left", False),
        (NEVER, "left_much", False),
        # Nobody knows more about the pair than before.
        (NEVER, "cannot_judge", True),
        (SLIGHT, "left", True),
        (SLIGHT, "right", True),
        (SLIGHT, "right_much", False),
        (SLIGHT, "tie", False),
        (AUDIT, "both_bad", True),
        (ALONE, "left", False),
        (ALONE, "cannot_judge", False),
    ],
)
def test_first_opinion(rules: Rules, verdict: str, expected: bool) -> None:
    winner = 1 if verdict.startswith(("left", "right")) else None

    assert asked(rules, Opinion(verdict, winner)) == expected


def test_newcomers_are_checked_at_first() -> None:
    assert asked(NEW, Opinion("left_much", 1), judged_before=19)
    assert not asked(NEW, Opinion("left_much", 1), judged_before=20)


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [(1, 2, True), (1, 1, False), (1, None, False), (None, None, False)],
)
def test_third_opinion_decides_between_two_that_contradict_each_other(
    mine: int | None, theirs: int | None, expected: bool
) -> None:
    rules = Rules(overlap_most=3, second_if_slight=True, second_of_new=20, audit_share=1.0)

    assert asked(rules, Opinion("", mine), Opinion("", theirs), judged_before=0) == expected


def test_never_more_than_the_policy_allows() -> None:
    assert not asked(SLIGHT, Opinion("left", 1), Opinion("left", 2), Opinion("left", 1))


def test_audits_about_its_share() -> None:
    rules = Rules(overlap_most=3, second_if_slight=False, second_of_new=0, audit_share=0.1)
    chance = random.Random(7)

    times = sum(
        wants_another(Opinion("tie", None), others=(), rules=rules, judged_before=0, chance=chance)
        for _ in range(2000)
    )

    assert 150 <= times <= 250
