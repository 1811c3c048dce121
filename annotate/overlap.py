"""When one opinion on a pair is not enough: pure rules, asked after each judgement that would complete a pair."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from annotate.models import Pair, Verdict

#: Only these get further opinions: comparisons take more prompts instead, and checks have their own rules.
PURPOSES = (Pair.Purpose.TRAIN, Pair.Purpose.EVAL)
SLIGHT = (Verdict.LEFT, Verdict.RIGHT)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a model's policy says about further opinions; see annotate.models.JudgingPolicy."""

    overlap_most: int
    second_if_slight: bool
    second_of_new: int
    audit_share: float


@dataclass(frozen=True, slots=True)
class Opinion:
    """What somebody says about a pair: the completion that won, if one did."""

    verdict: str
    winner_id: int | None


def wants_another(
    opinion: Opinion,
    *,
    others: Sequence[Opinion],
    rules: Rules,
    judged_before: int,
    chance: random.Random,
) -> bool:
    """Return whether somebody else should judge the pair, too.

    `others` are the pair's other standing opinions; `judged_before` counts the labeler's own judgements.
    """
    if 1 + len(others) >= rules.overlap_most:
        return False
    if others:
        return _contradict([opinion, *others])
    return (
        opinion.verdict == Verdict.CANNOT_JUDGE
        or (rules.second_if_slight and opinion.verdict in SLIGHT)
        or judged_before < rules.second_of_new
        or chance.random() < rules.audit_share
    )


def _contradict(opinions: Sequence[Opinion]) -> bool:
    """Return whether one prefers what another rejects; a tie contradicts nobody."""
    winners = {opinion.winner_id for opinion in opinions} - {None}
    return len(winners) > 1
