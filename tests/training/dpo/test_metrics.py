"""What steps and evaluations report, against sums done by hand."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.dpo import tiny
from training.dpo import losses, metrics
from training.dpo.losses import Losses, Pairs
from training.dpo.spec import Loss

KEYS = {
    "loss", "loss_preference", "loss_nll", "margin", "margin_p10", "margin_p90", "accuracy",
    "calibration", "drift_chosen", "drift_rejected", "nll_chosen", "length_ratio", "ties_margin",
}  # fmt: skip


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def given(
    margins: list[float], *, targets: list[float] | None = None, weights: list[float] | None = None
) -> tuple[Pairs, Losses]:
    """Return pairs with these margins at beta 1 and what dpo makes of them."""
    margin = torch.tensor(margins)
    five, ones = torch.full_like(margin, 5.0), torch.ones_like(margin)
    pairs = Pairs(
        chosen=margin - five, rejected=-five, ref_chosen=-five, ref_rejected=-five, n_chosen=2 * ones,
        n_rejected=4 * ones, target=torch.tensor(targets or [1.0] * len(margins)),
        weight=torch.tensor(weights or [1.0] * len(margins)),
    )  # fmt: skip
    return pairs, losses.evaluate(pairs, Loss(**tiny.loss(beta=1.0)))


def summary(margins: list[float], **changes: Any) -> dict[str, float | None]:
    return metrics.summary(*given(margins, **changes))


def drawn(count: int) -> Pairs:
    """Return random pairs of unequal everything, with ties among them."""
    number = random.Random(5)

    def values(low: float, high: float) -> Tensor:
        return torch.tensor([number.uniform(low, high) for _ in range(count)])

    return Pairs(
        chosen=values(-40, -10), rejected=values(-40, -10), ref_chosen=values(-40, -10),
        ref_rejected=values(-40, -10), n_chosen=values(5, 20).round(), n_rejected=values(5, 20).round(),
        target=torch.tensor([number.choice([1.0, 0.85, 0.5, 0.2]) for _ in range(count)]),
        weight=values(0.5, 3),
    )  # fmt: skip


def at(whole: Pairs, positions: list[int]) -> Pairs:
    return Pairs(*(getattr(whole, each.name)[positions] for each in dataclasses.fields(whole)))


class TestSummary:
    def test_weighs_pairs(self) -> None:
        pairs, made = given([1.0, -2.0, 5.0], weights=[1.0, 2.0, 0.5])
        made = dataclasses.replace(made, total=torch.tensor([1.0, 2.0, 4.0]))

        found = metrics.summary(pairs, made)

        assert found.keys() == KEYS
        assert found["loss"] == pytest.approx((1 + 4 + 2) / 3.5)
        assert found["margin"] == found["drift_chosen"] == pytest.approx((1 - 4 + 2.5) / 3.5)
        assert found["drift_rejected"] == 0
        assert found["nll_chosen"] == found["loss_nll"] == pytest.approx((2 + 2 * 3.5 + 0) / 3.5)
        assert found["length_ratio"] == 0.5

    def test_splits_the_loss_into_its_parts(self) -> None:
        pairs = drawn(12)

        found = metrics.summary(pairs, losses.evaluate(pairs, Loss(**tiny.loss(nll=0.2))))

        total, cost, nll = (found[f"loss{part}"] for part in ("", "_preference", "_nll"))
        assert cost is not None
        assert nll is not None
        assert nll > 0
        assert total == pytest.approx(cost + 0.2 * nll, abs=1e-6)

    def test_leaves_ties_out_of_the_accuracy_and_counts_no_margin_as_half(self) -> None:
        found = summary(
            [1.0, -2.0, 5.0, -4.0, 1e-6],
            targets=[1.0, 0.85, 0.5, 0.2, 1.0],
            weights=[1.0, 2.0, 1.0, 1.0, 1.0],
        )

        # Right are the first, the fourth, whose rejected one is better, and half of the fifth, of weight 5.
        assert found["accuracy"] == pytest.approx(2.5 / 5)
        assert found["ties_margin"] == 5

    def test_knows_what_there_is_none_of(self) -> None:
        tied = summary([1.0, -3.0], targets=[0.5, 0.5], weights=[3.0, 1.0])
        decided = summary([1.0])

        assert tied["accuracy"] is None
        assert tied["calibration"] is None
        assert tied["ties_margin"] == 1.5
        assert decided["ties_margin"] is None
        assert decided["accuracy"] == 1

    def test_has_no_drift_without_a_reference(self) -> None:
        pairs = drawn(4)
        nothing = torch.zeros(4)
        pairs = dataclasses.replace(pairs, ref_chosen=nothing, ref_rejected=nothing)
        asked = Loss(**tiny.loss(name="simpo", gamma=0.5))

        found = metrics.summary(pairs, losses.evaluate(pairs, asked))

        assert found["drift_chosen"] is None
        assert found["drift_rejected"] is None
        assert found["margin"] is not None

    def test_counts_tokens_that_are_scored(self) -> None:
        pairs, made = given([1.0, 2.0])
        pairs = dataclasses.replace(
            pairs, n_chosen=torch.tensor([3.0, 0.0]), chosen=torch.tensor([-6.0, 0.0])
        )

        found = metrics.summary(pairs, made)
        nothing = metrics.summary(dataclasses.replace(pairs, n_rejected=torch.zeros(2)), made)

        assert found["nll_chosen"] == 1
        assert found["length_ratio"] == 3 / 8
        assert nothing["length_ratio"] is None

    def test_is_the_same_for_any_split_and_order(self) -> None:
        whole, asked = drawn(23), Loss(**tiny.loss(ties=True, nll=0.2))
        expected = metrics.summary(whole, losses.evaluate(whole, asked))
        order = random.Random(1).sample(range(23), 23)

        for size in (1, 4, 23):
            passes = [at(whole, order[first : first + size]) for first in range(0, 23, size)]
            made = [losses.evaluate(each, asked) for each in passes]
            found = metrics.summary(
                Pairs(*(torch.cat([getattr(each, name.name) for each in passes])
                        for name in dataclasses.fields(Pairs))),
                Losses(*(torch.cat([getattr(each, name.name) for each in made])
                         for name in dataclasses.fields(Losses))),
            )  # fmt: skip
            assert found == pytest.approx(expected, abs=1e-9)

    def test_is_not_finite_where_a_pair_is_not(self) -> None:
        found = summary([math.nan, 1.0])

        for key in ("loss", "margin", "calibration"):
            value = found[key]
            assert value is not None
            assert math.isnan(value)

    def test_takes_no_graph_along(self) -> None:
        pairs, _ = given([1.0])
        pairs = dataclasses.replace(pairs, chosen=pairs.chosen.requires_grad_())

        found = metrics.summary(pairs, losses.evaluate(pairs, Loss(**tiny.loss())))

        assert {type(value) for value in found.values()} <= {float, type(None)}


class TestQuantile:
    @pytest.mark.parametrize(("share", "expected"), [(0.1, 1.0), (0.5, 5.0), (0.9, 9.0)])
    def test_is_one_of_the_values(self, share: float, expected: float) -> None:
        values = torch.arange(10, 0, -1, dtype=torch.float64)

        assert metrics.quantile(values, torch.ones(10, dtype=torch.float64), share) == expected

    def test_takes_weights_for_repetitions(self) -> None:
        values = torch.tensor([3.0, 1.0, 2.0])
        weight = torch.tensor([2.0, 1.0, 5.0], dtype=torch.float64)
        repeated = torch.tensor([1.0, *[2.0] * 5, *[3.0] * 2])

        for share in (0.05, 0.1, 0.125, 0.13, 0.75, 0.76, 0.9, 1.0):
            found = metrics.quantile(values, weight, share)
            assert found == metrics.quantile(repeated, torch.ones(8).double(), share)

    def test_of_one_is_itself(self) -> None:
        assert metrics.quantile(torch.tensor([7.0]), torch.tensor([0.3]), 0.9) == 7


class TestCalibration:
    def test_is_the_gap_in_each_bin_by_hand(self) -> None:
        # sigmoid(d): .62 right, .68 wrong, .72 right; and as seen from the other side .38, .32 and .28.
        found = summary([logit(0.62), logit(0.68), logit(0.72)], targets=[1.0, 0.0, 1.0])

        # The bin of the first two holds .65 with half of them right, that of the third .72 with all right.
        assert found["calibration"] == pytest.approx((2 * (0.65 - 0.5) + (1 - 0.72)) / 3, abs=1e-6)

    def test_weighs_pairs(self) -> None:
        found = summary([logit(0.62), logit(0.95)], weights=[3.0, 1.0])

        assert found["calibration"] == pytest.approx((3 * 0.38 + 0.05) / 4, abs=1e-6)

    def test_is_nothing_when_seven_of_ten_are_right_at_seven_tenths(self) -> None:
        found = summary([logit(0.75)] * 3 + [-logit(0.75)])

        assert found["calibration"] == pytest.approx(0, abs=1e-6)

    def test_does_not_care_which_completion_is_written_first(self) -> None:
        margins, targets = [0.4, -1.3, 2.2, 0.9], [1.0, 0.85, 0.0, 1.0]
        turned = [-1 * margin for margin in margins]

        found = summary(margins, targets=targets)["calibration"]

        assert found == pytest.approx(
            summary(turned, targets=[1 - target for target in targets])["calibration"], abs=1e-6
        )

    def test_is_nothing_before_the_first_step_whatever_rounding_says(self) -> None:
        assert summary([0.0, 1e-6, -1e-6, 2e-6])["calibration"] == pytest.approx(0, abs=1e-9)

    def test_counts_the_surest_too(self) -> None:
        assert summary([1e4, -1e4])["calibration"] == pytest.approx(0.5)
