"""A world so small that the best policy is known: the trainer must find it.

Twelve tokens and completions of two make 144 completions, each with a reward r. With noise-free targets
sigmoid(r(a) - r(b)) DPO has its least loss where d = r(a) - r(b), which is pi* = pi_0 exp(r / beta) / Z (Rafailov 2023,
arXiv 2305.18290, eq. 4 and 5). A wrong sign, beta, reference, mask, boundary or mean ends elsewhere.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.training.dpo import rounds, tiny

pytestmark = pytest.mark.timeout(600)
VOCABULARY = 12
PROMPTS = [(0, 1), (2, 3), (4, 5), (6, 7)]
COMPLETIONS = list(itertools.product(range(VOCABULARY), repeat=2))
BETA = 0.5
#: Rewards are within plus and minus this.
BOUND = 0.5
#: Each completion meets twice as many others of its prompt.
RINGS = 2

#: From the rewards of two completions to how probable it is that the first is better.
Target = Callable[[float, float], float]


def bradley_terry(first: float, second: float) -> float:
    """Return sigmoid(r(a) - r(b))."""
    return float(torch.sigmoid(torch.tensor(first - second)))


def davidson(first: float, second: float) -> float:
    """Return P(win) + P(tie) / 2 of Davidson's model with nu = 1: wins, ties and losses told as 1, 1/2 and 0."""
    d = torch.tensor(first - second, dtype=torch.float64)
    tie = 2 * torch.exp(-d / 2)
    z = 1 + torch.exp(-d) + tie
    return float((1 + tie / 2) / z)


def base_save(folder: Path) -> None:
    """Save a random model of twelve tokens where tiny.spec() looks for the base."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16, eos_token_id=None, bos_token_id=None,
        initializer_range=0.15,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / tiny.BASE)
    words = {str(number): number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / tiny.BASE)


def rewards() -> Tensor:
    """Return the reward of every completion, shape (prompts, completions)."""
    drawn = random.Random(1)
    table = [[drawn.uniform(-BOUND, BOUND) for _ in COMPLETIONS] for _ in PROMPTS]
    return torch.tensor(table)


def snapshot(target: Target, *, prompts: int = len(PROMPTS)) -> list[dict[str, Any]]:
    """Return lines in which every completion of the first prompts meets four others, so that all are connected."""
    drawn, table, lines = random.Random(2), rewards().tolist(), []
    for number, prompt in enumerate(PROMPTS[:prompts]):
        for _ in range(RINGS):
            ring = drawn.sample(range(len(COMPLETIONS)), k=len(COMPLETIONS))
            for first, second in zip(ring, [*ring[1:], ring[0]], strict=True):
                p = target(table[number][first], table[number][second])
                lines.append(line(prompt, COMPLETIONS[first], COMPLETIONS[second], p))
    return lines


def line(
    prompt: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...], target: float
) -> dict[str, Any]:
    ids = {"prompt_ids": list(prompt), "chosen_ids": list(first), "rejected_ids": list(second)}
    finish = {"chosen": "length", "rejected": "length"}
    return tiny.line(0) | ids | {"target": target, "finish": finish}


def train(place: Path, name: str, lines: list[dict[str, Any]], *, epochs: int, **loss: Any) -> Path:
    """Run a round of one step an epoch over all pairs."""
    return rounds.run(
        place,
        name,
        lines,
        loss=rounds.loss(beta=BETA, **loss),
        lora={"rank": 32, "alpha": 32, "target_modules": rounds.ALL_LINEAR},
        optimizer=rounds.optimizer(warmup=0.05),
        epochs=epochs,
        batch_pairs=len(lines),
        checkpoint_steps=epochs,
    )


@torch.no_grad()
def policies(place: Path, folder: Path) -> tuple[Tensor, Tensor]:
    """Return log pi_0 and log pi of every completion, each of shape (prompts, completions)."""
    model = rounds.loaded(place, folder / "version")
    trained = enumerated(model)
    with model.disable_adapter():
        return enumerated(model), trained


def enumerated(model: torch.nn.Module) -> Tensor:
    ids = torch.tensor([[*prompt, first] for prompt in PROMPTS for first in range(VOCABULARY)])
    table = model(input_ids=ids).logits.log_softmax(-1)
    table = table.view(len(PROMPTS), VOCABULARY, ids.shape[1], VOCABULARY)
    last = len(PROMPTS[0]) - 1
    # The prompt's last output does not depend on what follows it.
    return (table[:, 0, last, :, None] + table[:, :, last + 1, :]).flatten(1)


def divergence(policy: Tensor, other: Tensor) -> float:
    """Return KL(policy || other), averaged over prompts."""
    return float((policy.exp() * (policy - other)).sum(1).mean())


def best(base: Tensor) -> Tensor:
    """Return log pi*."""
    return (base + rewards()[: len(base)] / BETA).log_softmax(1)


@dataclass(frozen=True, slots=True)
class Change:
    """How much more reward a policy gets than the base, and how much that is by chance in 99 of 100 cases."""

    gain: float
    noise: float


def change(base: Tensor, policy: Tensor) -> Change:
    """Return a policy's change of the mean reward, and its noise: the same for rewards dealt out at random."""
    moved, table = policy.exp() - base.exp(), rewards()
    generator = torch.Generator().manual_seed(4)
    dealt = [
        (moved * table.flatten()[torch.randperm(table.numel(), generator=generator)].view_as(table))
        for _ in range(2000)
    ]
    gains = torch.stack([each.sum(1).mean() for each in dealt])
    return Change(
        gain=float((moved * table).sum(1).mean()), noise=float(gains.abs().quantile(0.99))
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    base_save(folder)
    return folder


class TestOptimum:
    @pytest.mark.parametrize(
        ("ties", "target", "prompts", "epochs"),
        # Two prompts are enough to tell one model of ties from another.
        [(False, bradley_terry, 4, 110), (True, davidson, 2, 100)],
        ids=["plain", "ties"],
    )
    def test_is_found(
        self, place: Path, ties: bool, target: Target, prompts: int, epochs: int
    ) -> None:
        lines = snapshot(target, prompts=prompts)

        folder = train(place, f"ties-{ties}", lines, epochs=epochs, ties=ties)

        base, policy = (each[:prompts] for each in policies(place, folder))
        assert base.exp().sum(1).tolist() == pytest.approx([1.0] * prompts, abs=1e-5)
        assert divergence(base, best(base)) > 0.1
        assert divergence(policy, best(base)) < 1e-3

    def test_is_not_found_from_labels_at_random(self, place: Path) -> None:
        lines = snapshot(bradley_terry)
        labels = [each["target"] for each in lines]
        random.Random(3).shuffle(labels)
        shuffled = [each | {"target": label} for each, label in zip(lines, labels, strict=True)]

        learned, null = (
            change(*policies(place, train(place, name, given, epochs=12)))
            for name, given in (("learned", lines), ("null", shuffled))
        )

        assert learned.gain > learned.noise
        assert abs(null.gain) < null.noise
