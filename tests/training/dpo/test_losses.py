"""Losses against sums done by hand, their closed-form derivatives and the models they stand for."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.dpo import tiny
from training.dpo import losses, spec
from training.dpo.failures import RoundFailed
from training.dpo.losses import Pairs
from training.dpo.spec import Loss

#: One of each kind, with every option it takes.
EVERY = [
    tiny.loss(),
    tiny.loss(smoothing=0.1),
    tiny.loss(ties=True),
    tiny.loss(ties=True, smoothing=0.1, nll=0.5),
    tiny.loss(nll=0.2),
    tiny.loss(name="robust", smoothing=0.1),
    tiny.loss(name="ipo"),
    tiny.loss(name="ln", beta=5.0),
    tiny.loss(name="apo_zero", nll=1.0),
    tiny.loss(name="dpop", penalty=5.0),
    tiny.loss(name="simpo", beta=2.0, gamma=0.5),
]
GRADIENTS = ("chosen", "rejected")


def named(settings: dict[str, Any]) -> str:
    """Return a name for a case: what is not as in plain DPO."""
    plain = tiny.loss()
    return ",".join(f"{key}={value}" for key, value in settings.items() if value != plain[key])


every = pytest.mark.parametrize("settings", EVERY, ids=named)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pairs(**changes: Tensor) -> Pairs:
    """Return four pairs of unequal lengths, targets and weights; the second's chosen one has lost likelihood."""
    given = {
        "chosen": tensor(-11.0, -9.5, -3.0, -21.0),
        "rejected": tensor(-14.0, -6.0, -4.0, -20.0),
        "ref_chosen": tensor(-12.0, -8.0, -3.5, -20.5),
        "ref_rejected": tensor(-13.0, -7.0, -3.0, -24.0),
        "n_chosen": tensor(4.0, 3.0, 1.0, 7.0),
        "n_rejected": tensor(6.0, 2.0, 1.0, 8.0),
        "target": tensor(1.0, 0.85, 0.5, 0.2),
        "weight": tensor(1.0, 2.0, 0.5, 1.0),
    }
    return Pairs(**(given | changes))


def differing(margin: Tensor, target: Tensor | None = None) -> Pairs:
    """Return pairs of one token each that have these margins at beta 1: w alone differs from its reference."""
    zeros, ones = torch.zeros_like(margin), torch.ones_like(margin)
    return Pairs(
        chosen=margin - 5, rejected=zeros - 5, ref_chosen=zeros - 5, ref_rejected=zeros - 5,
        n_chosen=ones, n_rejected=ones, target=ones if target is None else target, weight=ones,
    )  # fmt: skip


def leaves(given: Pairs) -> Pairs:
    """Return the pairs with policies that take gradients."""
    new = {name: getattr(given, name).clone().requires_grad_() for name in GRADIENTS}
    return dataclasses.replace(given, **new)


def close(found: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


class TestMargin:
    def test_is_of_sums(self) -> None:
        # rho: 1 and -1, -1.5 and 1, .5 and -1, -.5 and 4.
        for name in ("dpo", "robust", "apo_zero", "dpop"):
            found = losses.margin(pairs(), Loss(**tiny.loss(name=name, beta=0.5)))
            close(found, 0.5 * tensor(2.0, -2.5, 1.5, -4.5))

    def test_is_of_means_over_tokens(self) -> None:
        expected = 0.5 * tensor(1 / 4 + 1 / 6, -1.5 / 3 - 1 / 2, 0.5 + 1, -0.5 / 7 - 4 / 8)
        for name in ("ipo", "ln"):
            close(losses.margin(pairs(), Loss(**tiny.loss(name=name, beta=0.5))), expected)

    def test_knows_no_reference_with_simpo(self) -> None:
        nothing = torch.zeros(4, dtype=torch.float64)
        given = pairs(ref_chosen=nothing, ref_rejected=nothing)

        found = losses.margin(given, Loss(**tiny.loss(name="simpo", beta=2.0, gamma=3.0)))

        expected = tensor(-11 / 4 + 14 / 6, -9.5 / 3 + 6 / 2, -3 + 4, -21 / 7 + 20 / 8)
        close(found, 2 * expected)


class TestByHand:
    """sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4."""

    def total(self, given: Pairs, **settings: Any) -> Tensor:
        return losses.evaluate(given, Loss(**tiny.loss(beta=1.0, **settings))).total

    def test_dpo(self) -> None:
        given = differing(
            tensor(math.log(3), math.log(3), math.log(3), 0.0), tensor(1.0, 0.0, 0.85, 0.85)
        )

        soft = -(0.85 * math.log(0.75) + 0.15 * math.log(0.25))
        close(self.total(given), tensor(-math.log(0.75), -math.log(0.25), soft, math.log(2)))

    def test_dpo_with_smoothing(self) -> None:
        given = differing(tensor(math.log(3)))

        close(
            self.total(given, smoothing=0.1),
            tensor(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25))),
        )

    def test_robust(self) -> None:
        given = differing(tensor(math.log(3)))

        expected = (-0.9 * math.log(0.75) + 0.1 * math.log(0.25)) / 0.8
        close(self.total(given, name="robust", smoothing=0.1), tensor(expected))

    def test_ipo(self) -> None:
        # h = 1/4 + 1/6 and so on; 1/(2 beta) = 1/2; the last two are soft.
        lead = (1 / 4 + 1 / 6, -1.5 / 3 - 1 / 2, 1.5, -0.5 / 7 - 4 / 8)
        expected = [
            p * (h - 0.5) ** 2 + (1 - p) * (-h - 0.5) ** 2
            for h, p in zip(lead, (1.0, 0.85, 0.5, 0.2), strict=True)
        ]

        close(self.total(pairs(), name="ipo"), tensor(*expected))

    def test_ln(self) -> None:
        given = pairs(target=torch.ones(4, dtype=torch.float64))

        found = self.total(given, name="ln")

        close(found[:1], tensor(math.log1p(math.exp(-(1 / 4 + 1 / 6)))))

    def test_apo_zero(self) -> None:
        # rho(w) = ln 3 and rho(l) = -ln 3, and the same the other way round.
        gap = math.log(3)
        given = dataclasses.replace(
            differing(tensor(gap, gap), tensor(1.0, 0.0)), rejected=tensor(-5 - gap, -5 - gap)
        )

        close(self.total(given, name="apo_zero"), tensor(0.25 + 0.25, 0.75 + 0.75))

    def test_dpop(self) -> None:
        # Only the second has lost likelihood: rho(w) = -ln 3, so d is 1 + 2 times as low.
        given = differing(tensor(math.log(3), -math.log(3)))

        found = self.total(given, name="dpop", penalty=2.0)

        close(found, tensor(-math.log(0.75), math.log1p(27)))

    def test_simpo(self) -> None:
        nothing = torch.zeros(2, dtype=torch.float64)
        given = dataclasses.replace(
            differing(nothing, tensor(1.0, 0.0)),
            chosen=tensor(-2.0, -2.0), rejected=tensor(-6.0, -6.0), n_chosen=tensor(2.0, 2.0),
            n_rejected=tensor(3.0, 3.0), ref_chosen=nothing, ref_rejected=nothing,
        )  # fmt: skip

        found = self.total(given, name="simpo", gamma=0.5)

        # Means -1 and -2, so d = 1; the gap is wanted whichever is better.
        close(found, tensor(math.log1p(math.exp(-0.5)), math.log1p(math.exp(1.5))))

    def test_nll(self) -> None:
        found = losses.evaluate(pairs(), Loss(**tiny.loss(nll=0.2)))

        # The third is a tie, and in the fourth the rejected one is better.
        close(found.nll, tensor(11 / 4, 9.5 / 3, 0.0, 20 / 8))
        close(found.total, found.preference + 0.2 * found.nll)


class TestDerivatives:
    """What the docstrings say, by d or by what they name, at one pair a row."""

    def by_chosen(self, given: Pairs, **settings: Any) -> Tensor | None:
        given = leaves(given)
        losses.evaluate(given, Loss(**tiny.loss(**settings))).total.sum().backward()
        return given.chosen.grad

    def margins(self) -> Tensor:
        return torch.linspace(-6, 6, 13, dtype=torch.float64)

    @pytest.mark.parametrize("target", [1.0, 0.85, 0.5, 0.0])
    def test_dpo(self, target: float) -> None:
        d = self.margins()
        given = differing(d, torch.full_like(d, target))

        close(self.by_chosen(given, beta=1.0), torch.sigmoid(d) - target)

    @pytest.mark.parametrize("target", [1.0, 0.85, 0.5, 0.0])
    def test_dpo_ties(self, target: float) -> None:
        d = self.margins()
        given = differing(d, torch.full_like(d, target))

        close(self.by_chosen(given, beta=1.0, ties=True), torch.sigmoid(d / 2) - target)

    def test_robust(self) -> None:
        d = self.margins()

        found = self.by_chosen(differing(d), beta=1.0, name="robust", smoothing=0.2)

        close(found, -(0.8 * torch.sigmoid(-d) + 0.2 * torch.sigmoid(d)) / 0.6)

    def test_ipo(self) -> None:
        d = self.margins()

        close(self.by_chosen(differing(d), beta=0.25, name="ipo"), 2 * (d - 2))

    def test_ln(self) -> None:
        d = self.margins()

        found = self.by_chosen(differing(d), beta=5.0, name="ln")

        close(found, -5 * torch.sigmoid(-5 * d))

    def test_apo_zero(self) -> None:
        given = leaves(pairs(target=torch.ones(4, dtype=torch.float64)))

        losses.evaluate(given, Loss(**tiny.loss(name="apo_zero"))).total.sum().backward()

        s = torch.sigmoid(0.1 * (given.chosen - given.ref_chosen).detach())
        close(given.chosen.grad, -0.1 * s * (1 - s))
        s = torch.sigmoid(0.1 * (given.rejected - given.ref_rejected).detach())
        close(given.rejected.grad, 0.1 * s * (1 - s))

    def test_dpop(self) -> None:
        d = tensor(-3.0, -1.0, 2.0)

        found = self.by_chosen(differing(d), beta=1.0, name="dpop", penalty=2.0)

        inside = tensor(-9.0, -3.0, 2.0)
        close(found, -tensor(3.0, 3.0, 1.0) * torch.sigmoid(-inside))

    def test_simpo(self) -> None:
        d = self.margins()
        nothing = torch.zeros_like(d)
        given = dataclasses.replace(differing(d), ref_chosen=nothing, ref_rejected=nothing)

        found = self.by_chosen(given, beta=1.0, name="simpo", gamma=0.5)

        close(found, -torch.sigmoid(0.5 - d))

    def test_nll(self) -> None:
        plain, more = (self.by_chosen(pairs(), nll=nll) for nll in (0.0, 0.3))

        assert plain is not None
        assert more is not None
        # Of a tie nothing is learned, and in the fourth the rejected one is better.
        close(more - plain, -0.3 * tensor(1 / 4, 1 / 3, 0.0, 0.0))

    @every
    def test_are_right_by_finite_differences(self, settings: dict[str, Any]) -> None:
        asked = Loss(**settings)

        def total(chosen: Tensor, rejected: Tensor) -> Tensor:
            return losses.evaluate(pairs(chosen=chosen, rejected=rejected), asked).total

        given = leaves(pairs())
        assert torch.autograd.gradcheck(total, (given.chosen, given.rejected))


class TestStart:
    """Where policy and reference are equal."""

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            (tiny.loss(), math.log(2)),
            (tiny.loss(smoothing=0.1), math.log(2)),
            (tiny.loss(ties=True), 2 * math.log(2)),
            (tiny.loss(name="robust", smoothing=0.1), math.log(2)),
            (tiny.loss(name="ipo"), 25.0),
            (tiny.loss(name="ln", beta=5.0), math.log(2)),
            (tiny.loss(name="apo_zero"), 1.0),
            (tiny.loss(name="dpop", penalty=5.0), math.log(2)),
        ],
        ids=lambda value: named(value) if isinstance(value, dict) else "",
    )
    def test_costs_the_same_whatever_the_target(
        self, settings: dict[str, Any], expected: float
    ) -> None:
        given = pairs()
        given = leaves(
            dataclasses.replace(given, chosen=given.ref_chosen, rejected=given.ref_rejected)
        )

        found = losses.evaluate(given, Loss(**settings))
        found.total.sum().backward()

        close(found.total, torch.full((4,), expected, dtype=torch.float64))
        close(found.margin, torch.zeros(4, dtype=torch.float64))
        assert given.chosen.grad is not None
        assert given.chosen.grad[0] < 0

    def test_is_to_the_bit_in_float32(self) -> None:
        zeros = torch.zeros(3)
        given = differing(zeros, torch.tensor([1.0, 0.85, 0.5]))

        found = losses.evaluate(given, Loss(**tiny.loss()))

        assert found.total.dtype == torch.float32
        assert found.margin.tolist() == [0, 0, 0]
        assert found.total[0].item() == torch.tensor(2.0).log().item()


class TestModels:
    def test_ties_are_davidsons_with_nu_1(self) -> None:
        d = torch.linspace(-6, 6, 25, dtype=torch.float64)
        z = 1 + torch.exp(-d) + 2 * torch.exp(-d / 2)

        def cost(target: float) -> Tensor:
            given = differing(d, torch.full_like(d, target))
            return losses.evaluate(given, Loss(**tiny.loss(beta=1.0, ties=True))).total

        close(cost(1.0), -torch.log(1 / z))
        close(cost(0.0), -torch.log(torch.exp(-d) / z))
        close(cost(0.5) - math.log(2), -torch.log(2 * torch.exp(-d / 2) / z))

    @pytest.mark.parametrize(
        "settings",
        [each for each in EVERY if each["name"] in ("dpo", "robust", "ipo", "ln")],
        ids=named,
    )
    def test_a_tie_pulls_towards_a_margin_of_nothing(self, settings: dict[str, Any]) -> None:
        d = tensor(-4.0, -0.5, 0.5, 4.0)
        given = leaves(differing(d, torch.full_like(d, 0.5)))

        losses.evaluate(given, Loss(**settings)).total.sum().backward()

        assert given.chosen.grad is not None
        assert torch.equal(given.chosen.grad.sign(), d.sign())

    def test_a_tie_teaches_nothing_with_apo_zero(self) -> None:
        given = leaves(pairs(target=torch.full((4,), 0.5, dtype=torch.float64)))

        losses.evaluate(given, Loss(**tiny.loss(name="apo_zero"))).total.sum().backward()

        close(given.chosen.grad, torch.zeros(4, dtype=torch.float64))

    def test_robust_sees_through_judgements_the_wrong_way_round(self) -> None:
        # The theorem it is made for: with a share e flipped its mean is dpo's without.
        flipped = 0.2
        d = torch.linspace(-6, 6, 25, dtype=torch.float64)
        noisy = differing(d, torch.full_like(d, 1 - flipped))

        robust = losses.evaluate(noisy, Loss(**tiny.loss(name="robust", smoothing=flipped)))
        plain = losses.evaluate(noisy, Loss(**tiny.loss()))
        clean = losses.evaluate(differing(d), Loss(**tiny.loss()))

        close(robust.total, clean.total)
        assert (plain.total - clean.total).abs().max() > 0.05

    @every
    def test_a_target_says_which_is_better_and_not_which_is_written_first(
        self, settings: dict[str, Any]
    ) -> None:
        given, asked = pairs(), Loss(**settings)
        turned = dataclasses.replace(losses.swapped(given), target=1 - given.target)

        one, other = losses.evaluate(given, asked), losses.evaluate(turned, asked)

        close(one.total, other.total)
        close(one.margin, -other.margin)

    @every
    def test_a_pair_costs_the_same_in_any_company(self, settings: dict[str, Any]) -> None:
        given, asked = pairs(), Loss(**settings)
        whole = losses.evaluate(given, asked)

        for number in range(4):
            alone = losses.evaluate(
                Pairs(*(getattr(given, each.name)[[number]] for each in dataclasses.fields(Pairs))),
                asked,
            )
            assert torch.equal(alone.total, whole.total[[number]])

    @every
    def test_stays_finite_far_out(self, settings: dict[str, Any]) -> None:
        given = leaves(differing(torch.tensor([-1e4, 1e4])))

        found = losses.evaluate(given, Loss(**settings)).total
        found.sum().backward()

        assert found.isfinite().all()
        assert given.chosen.grad is not None
        assert given.chosen.grad.isfinite().all()

    @every
    def test_a_completion_without_a_scored_token_is_no_division_by_nothing(
        self, settings: dict[str, Any]
    ) -> None:
        nothing = tensor(0.0)
        given = Pairs(
            chosen=nothing, rejected=tensor(-4.0), ref_chosen=nothing, ref_rejected=tensor(-5.0),
            n_chosen=nothing, n_rejected=tensor(2.0), target=tensor(1.0), weight=tensor(1.0),
        )  # fmt: skip

        given = leaves(given)
        found = losses.evaluate(given, Loss(**settings)).total
        found.sum().backward()

        assert found.isfinite().all()
        assert given.chosen.grad is not None
        assert given.chosen.grad.isfinite().all()


class TestOptions:
    """Every option of every loss changes what a pair costs, or run.json is refused."""

    ASKED = {"beta": 0.7, "ties": True, "smoothing": 0.3, "nll": 0.9, "gamma": 1.5, "penalty": 9.0}
    #: The least that each loss needs.
    NEEDED = {"robust": {"smoothing": 0.1}, "dpop": {"penalty": 5.0}, "simpo": {"gamma": 0.5}}

    def read(self, folder: Path, loss: dict[str, Any]) -> Loss:
        reference = tiny.spec(folder)["reference"] if loss["name"] != "simpo" else None
        settings = tiny.spec(folder, loss=loss, reference=reference)
        (folder / "run.json").write_text(json.dumps(settings))
        return spec.read(folder / "run.json").loss

    @pytest.mark.parametrize("name", spec.LOSSES)
    def test_none_is_passed_over(self, tmp_path: Path, name: str) -> None:
        plain = tiny.loss(name=name, **self.NEEDED.get(name, {}))
        without = losses.evaluate(pairs(), self.read(tmp_path, plain)).total

        for option, value in self.ASKED.items():
            asked = plain | {option: value}
            if option in {"beta", "nll"} | spec.LOSSES[name].keys():
                changed = losses.evaluate(pairs(), self.read(tmp_path, asked)).total
                assert (changed - without).abs().max() > 1e-3, option
            else:
                with pytest.raises(RoundFailed, match=f"loss.{option} must be") as failed:
                    self.read(tmp_path, asked)
                assert failed.value.code == "spec_invalid"

    def test_have_every_key_of_run_json(self) -> None:
        # `mask_special` decides what is scored, before any loss.
        keys = {each.name for each in dataclasses.fields(Loss)} - {"name", "mask_special"}

        assert keys == self.ASKED.keys()
        assert losses.FUNCTIONS.keys() == spec.LOSSES.keys()

    def test_every_loss_is_another(self) -> None:
        found = [losses.evaluate(pairs(), Loss(**settings)).total for settings in EVERY]

        for one, other in itertools.combinations(found, 2):
            assert (one - other).abs().max() > 1e-4
