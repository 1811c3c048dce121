"""Rounds through the trainer's folder, and what their versions answer to plain transformers and PEFT.

Nothing here knows how the trainer works inside.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.training.dpo import tiny
from training.dpo import __main__ as program

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CODES = {"done": 0, "failed": 1}


def loss(**changes: Any) -> dict[str, Any]:
    """Return run.json's loss, as tiny.spec() has it, with some keys changed."""
    found: dict[str, Any] = tiny.spec(Path("/"))["loss"] | changes
    return found


def optimizer(**changes: Any) -> dict[str, Any]:
    """Return run.json's optimizer: quick, without warmup."""
    return {"learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 0.0, "clip": 1.0} | changes


def run(
    place: Path,
    name: str,
    snapshot: list[dict[str, Any]],
    *,
    holdout: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> Path:
    """Run a round on the base below the place; return its folder."""
    folder = tiny.round_save(
        place / name,
        settings=tiny.spec(place, **changes),
        snapshot=snapshot,
        holdout=holdout,
    )
    return finish(folder)


def finish(folder: Path) -> Path:
    """Start the trainer in a folder that is ready; return the folder. The exit code must fit the result."""
    code = program.main([str(folder)])
    assert code == CODES[tiny.result(folder)["outcome"]]
    return folder


def child_of(place: Path, folder: Path, *, number: int) -> dict[str, Any]:
    """Store a round's version under its hash; return the keys of run.json that make it version `number`, the parent."""
    sha256 = hashlib.sha256(adapter(folder)).hexdigest()
    shutil.copytree(folder / "version", place / sha256, dirs_exist_ok=True)
    return {
        "round": {"model": "demo", "number": number + 1},
        "parent": {"path": str(place / sha256), "sha256": sha256, "number": number},
    }


def adapter(folder: Path) -> bytes:
    """Return the weights of a round's version."""
    return (folder / "version" / "adapter_model.safetensors").read_bytes()


def losses(folder: Path) -> list[float]:
    """Return the loss of every step."""
    return [each["loss"] for each in tiny.events(folder, "step")]


def loaded(place: Path, version: Path) -> PeftModel:
    """Load a version on the base below the place, as anybody would."""
    base = AutoModelForCausalLM.from_pretrained(place / tiny.BASE, dtype=torch.float32)
    return PeftModel.from_pretrained(base, version).eval()


@torch.no_grad()
def log_probs(model: torch.nn.Module, prompt: Iterable[int], completion: Iterable[int]) -> Tensor:
    """Return log pi(y_t | x, y_<t) of a completion's tokens, shape (n,), from logits at every position."""
    before, after = list(prompt), list(completion)
    ids = torch.tensor([[*before, *after]])
    table = model(input_ids=ids).logits[0].log_softmax(-1)
    return torch.stack(
        [table[len(before) + number - 1, token] for number, token in enumerate(after)]
    )


def drift(model: PeftModel, prompt: Iterable[int], completion: Iterable[int]) -> float:
    """Return rho: the log-probability of a completion under the adapter minus that under the base."""
    before, after = list(prompt), list(completion)
    adapted = log_probs(model, before, after).sum()
    with model.disable_adapter():
        plain = log_probs(model, before, after).sum()
    return float(adapted - plain)
