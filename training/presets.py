"""What a round minimises, by names that an admin chooses from; no Django in here.

The formulas are in `training.dpo.losses`; here is only which of them a name stands for, and how pages say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

TIES_REFUSED = (
    "Ties can only be learned as ties by a preset whose loss is DPO (Standard, Llama 3, Noisy judgements)."
    " Do not learn from ties, or choose one of these presets."
)
#: The losses of run.json -> how people call them.
LOSSES = {
    "dpo": "DPO",
    "robust": "robust DPO",
    "ipo": "IPO",
    "ln": "length-normalised DPO",
    "apo_zero": "APO-zero",
    "dpop": "DPO-Positive",
    "simpo": "SimPO",
}
#: Losses whose margin is a mean over an answer's tokens and not their sum.
PER_TOKEN = frozenset({"ipo", "ln", "simpo"})


@dataclass(frozen=True, slots=True)
class Preset:
    """One choice: how it is called, whom it is for, and its loss."""

    title: str
    about: str
    loss: str
    beta: float
    smoothing: float = 0.0
    nll: float = 0.0
    mask_special: bool = False

    @property
    def takes_ties(self) -> bool:
        """Whether its loss knows ties as ties (Davidson's model)."""
        return self.loss == "dpo"


#: Sources of the numbers: DPO arXiv 2305.18290, Llama 3 2407.21783 section 4.1.4, cDPO Mitchell 2023,
#: length-normalised DPO 2411.15124 section 4.3, APO 2408.06266.
PRESETS = {
    "paper": Preset(
        "Standard",
        "DPO as it was published: good answers become likelier than bad ones, against the reference. Begin here.",
        "dpo",
        0.1,
    ),
    "llama3": Preset(
        "Llama 3",
        "Also keeps good answers likely in themselves, and does not score end-of-turn marks. For when both"
        " kinds of answers become less likely, or answers no longer end well.",
        "dpo",
        0.1,
        nll=0.2,
        mask_special=True,
    ),
    "noisy": Preset(
        "Noisy judgements",
        "Takes one judgement in ten for a slip, so no single one is trusted fully. For labelers who often"
        " disagree.",
        "dpo",
        0.1,
        smoothing=0.1,
    ),
    "length": Preset(
        "Length",
        "Compares answers by the mean of their tokens and not by the sum. For when answers grow longer from"
        " round to round.",
        "ln",
        5.0,
    ),
    "anchored": Preset(
        "Anchored",
        "Makes each good answer likelier and each bad one less likely, instead of only moving them apart. For"
        " good answers that are better than what the model writes by itself.",
        "apo_zero",
        0.1,
    ),
}
CHOICES = [(name, preset.title) for name, preset in PRESETS.items()]


def loss_of(name: str, *, beta: float | None, ties: bool) -> dict[str, Any]:
    """Return `loss` of run.json: every option, also those that the loss does not have. Raises KeyError.

    Without a beta it is the preset's own.
    """
    preset = PRESETS[name]
    return {
        "name": preset.loss,
        "beta": preset.beta if beta is None else beta,
        "ties": ties,
        "smoothing": preset.smoothing,
        "nll": preset.nll,
        "gamma": None,
        "penalty": None,
        "mask_special": preset.mask_special,
    }


def refusal(name: str, *, ties: bool) -> str:
    """Return why a preset cannot be trained with these settings, as a sentence; empty when it can."""
    preset = PRESETS.get(name)
    return TIES_REFUSED if preset and ties and not preset.takes_ties else ""


def words(loss: Mapping[str, Any]) -> str:
    """Write `loss` of run.json as a phrase; one of an older schema has fewer options."""
    name = loss.get("name", "dpo")
    said = [LOSSES.get(name, name), f"β {loss.get('beta', '?')}"]
    if loss.get("smoothing"):
        said.append(f"one judgement in {1 / loss['smoothing']:.3g} taken for a slip")
    if loss.get("nll"):
        said.append(f"{loss['nll']:g} of the good answers' NLL")
    if loss.get("penalty"):
        said.append(f"penalty {loss['penalty']:g}")
    if loss.get("gamma"):
        said.append(f"gap {loss['gamma']:g}")
    if loss.get("mask_special"):
        said.append("special tokens are not scored")
    return ", ".join(said)


def indifferent(loss: Mapping[str, Any]) -> float | None:
    """Return the preference loss of a policy that equals its reference; None where that has no meaning.

    That is the loss's formula at rho = 0, whatever the target: -log sig(0) = ln 2 for the logistic ones.
    """
    name = loss.get("name", "dpo")
    if name == "simpo":
        return None
    if name == "ipo":
        return (1 / (2 * float(loss["beta"]))) ** 2
    if name == "apo_zero":
        return 1.0
    return log(2) * (2 if loss.get("ties") else 1)


def indifferent_said(loss: Mapping[str, Any]) -> str:
    """Say what the preference loss of no preference is, to go on after a semicolon; empty where it has none."""
    value = indifferent(loss)
    if value is None:
        return ""
    return f"a version that equals its reference has {value:.3f}"
