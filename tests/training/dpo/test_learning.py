"""What the losses that allow for noise are for."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from tests.training.dpo import rounds, tiny

HALF = len(tiny.NUMBERS) // 2
#: Who judges well prefers words of the first kind.
KINDS = [range(tiny.FIRST, tiny.FIRST + HALF), range(tiny.FIRST + HALF, len(tiny.WORDS))]
PAIRS = 240
FLIPPED = 0.2
BETA = 0.1
#: Too small to learn the flipped pairs by heart.
LORA = {"rank": 1, "alpha": 2, "target_modules": ["o_proj"]}


def line(number: int, *, flipped: bool = False) -> dict[str, Any]:
    """Return a pair of two kinds of words, the better one chosen unless it is flipped."""
    drawn = random.Random(number)
    good, bad = ([*drawn.choices(kind, k=3), tiny.END] for kind in KINDS)
    chosen, rejected = (bad, good) if flipped else (good, bad)
    finish = {"chosen": "stop", "rejected": "stop"}
    return tiny.line(number, chosen_ids=chosen, rejected_ids=rejected, finish=finish)


def margins(place: Path, folder: Path, lines: list[dict[str, Any]]) -> torch.Tensor:
    """Return d of every pair, shape (pairs,)."""
    model = rounds.loaded(place, folder / "version")
    return BETA * torch.tensor(
        [
            rounds.drift(model, each["prompt_ids"], each["chosen_ids"])
            - rounds.drift(model, each["prompt_ids"], each["rejected_ids"])
            for each in lines
        ]
    )


class TestRobust:
    def test_is_better_on_clean_pairs_when_a_fifth_is_flipped(self, tmp_path: Path) -> None:
        tiny.base_save(tmp_path)
        noisy = [line(number, flipped=number < FLIPPED * PAIRS) for number in range(PAIRS)]
        clean = [line(number) for number in range(1000, 1040)]

        plain, robust = (
            margins(
                tmp_path,
                rounds.run(
                    tmp_path, name, noisy,
                    loss=rounds.loss(name=name, beta=BETA, **options),
                    lora=LORA,
                    optimizer=rounds.optimizer(learning_rate=5e-2),
                    epochs=20, batch_pairs=60, checkpoint_steps=99,
                ),
                clean,
            )
            for name, options in (("dpo", {}), ("robust", {"smoothing": FLIPPED}))
        )  # fmt: skip

        assert log_loss(robust) < 0.9 * log_loss(plain)
        assert (robust > 0).sum() >= (plain > 0).sum()


def log_loss(found: torch.Tensor) -> float:
    """Return -log sigmoid(d), the mean: what plain DPO would lose on pairs without noise."""
    return -torch.nn.functional.logsigmoid(found).mean().item()
