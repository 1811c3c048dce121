"""Losses against sums done by hand and against the models they stand for."""

from __future__ import annotations

import math

import pytest
import torch

from training.dpo import losses
from training.dpo.spec import Loss


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestDpo:
    def test_is_what_the_formula_gives_by_hand(self) -> None:
        # sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4.
        margin = tensor(math.log(3), math.log(3), math.log(3), 0.0)
        target = tensor(1.0, 0.0, 0.85, 0.85)

        found = losses.dpo(margin, target)

        soft = -(0.85 * math.log(0.75) + 0.15 * math.log(0.25))
        expected = tensor(-math.log(0.75), -math.log(0.25), soft, math.log(2))
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)

    def test_stays_finite_far_out(self) -> None:
        assert losses.dpo(tensor(-1e4, 1e4), tensor(1.0, 1.0)).tolist() == [1e4, 0.0]

    @pytest.mark.parametrize("target", [1.0, 0.85, 0.5])
    def test_has_the_derivative_of_its_docstring(self, target: float) -> None:
        margin = tensor(-2.0, 0.3, 4.0).requires_grad_()

        losses.dpo(margin, tensor(target)).sum().backward()

        torch.testing.assert_close(
            margin.grad, torch.sigmoid(margin.detach()) - target, atol=1e-12, rtol=0
        )


class TestDpoTies:
    def test_is_davidsons_model_with_nu_1(self) -> None:
        d = torch.linspace(-6, 6, 25, dtype=torch.float64)
        z = 1 + torch.exp(-d) + 2 * torch.exp(-d / 2)

        won = losses.dpo_ties(d, tensor(1.0))
        lost = losses.dpo_ties(d, tensor(0.0))
        tied = losses.dpo_ties(d, tensor(0.5)) - math.log(2)

        torch.testing.assert_close(won, -torch.log(1 / z), atol=1e-12, rtol=0)
        torch.testing.assert_close(lost, -torch.log(torch.exp(-d) / z), atol=1e-12, rtol=0)
        tie = 2 * torch.exp(-d / 2) / z
        torch.testing.assert_close(tied, -torch.log(tie), atol=1e-12, rtol=0)

    def test_starts_at_two_ln_2_whatever_the_target(self) -> None:
        found = losses.dpo_ties(torch.zeros(3, dtype=torch.float64), tensor(1.0, 0.85, 0.5))

        torch.testing.assert_close(found, tensor(2.0, 2.0, 2.0) * math.log(2), atol=1e-12, rtol=0)


class TestChosen:
    @pytest.mark.parametrize("ties", [True, False])
    def test_gives_a_function_with_right_gradients(self, ties: bool) -> None:
        function = losses.chosen(Loss(name="dpo", beta=0.1, ties=ties))
        margin = tensor(-1.5, 0.0, 0.2, 3.0).requires_grad_()

        assert torch.autograd.gradcheck(lambda d: function(d, tensor(0.85)), margin)
        expected = math.log(2) * (2 if ties else 1)
        assert function(tensor(0.0), tensor(1.0)).item() == pytest.approx(expected, abs=1e-12)
