"""Where a killed round goes on: adapter, moments and step, whole or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from training.dpo import files, model

KEPT = 2
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A round after `step` steps. `state` is what the loop wants back, as JSON."""

    step: int
    state: dict[str, Any]
    adapter: dict[str, Tensor]
    moments: dict[str, Tensor]


def identity(folder: Path) -> str:
    """Return the hash of everything that a run reads; a checkpoint of another run is not ours."""
    names = ("run.json", "snapshot.jsonl", "holdout.jsonl")
    return hashlib.sha256(
        "\n".join(files.sha256(folder / name) for name in names).encode()
    ).hexdigest()


def save_step(
    folder: Path,
    *,
    identity: str,
    step: int,
    state: dict[str, Any],
    policy: PeftModel,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the checkpoint of a step and delete all but the newest."""
    contents = {
        "adapter.safetensors": save(model.adapter_get(policy)),
        "moments.safetensors": save(_moments(policy, optimizer)),
    }
    with files.folder(folder / f"step-{step:06d}") as draft:
        for name, content in contents.items():
            files.write(draft / name, content)
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        whole = {"identity": identity, "step": step, "state": state, "sha256": hashes}
        files.write_json(draft / "state.json", whole)
    for old in _folders(folder)[KEPT:]:
        shutil.rmtree(old)


def latest(folder: Path, *, identity: str) -> Checkpoint | None:
    """Return the newest checkpoint that is whole and of this run."""
    for path in _folders(folder):
        found = _read(path, identity)
        if found:
            return found
    return None


def restore(saved: Checkpoint, *, policy: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    """Put adapter and moments back, to the bit."""
    model.adapter_set(policy, saved.adapter)
    for name, parameter in model.trainable(policy).items():
        optimizer.state[parameter] = {"step": torch.tensor(float(saved.step))} | {
            moment: saved.moments[f"{name}.{moment}"].to(parameter.device) for moment in MOMENTS
        }


def _moments(policy: PeftModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.trainable(policy).items()
        for moment in MOMENTS
    }


def _folders(folder: Path) -> list[Path]:
    """Return the checkpoints' folders, newest first; those still called draft are not among them."""
    return sorted(folder.glob("step-" + "[0-9]" * 6), reverse=True)


def _read(path: Path, identity: str) -> Checkpoint | None:
    try:
        whole = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if whole["identity"] != identity:
            return None
        if any(files.sha256(path / name) != found for name, found in whole["sha256"].items()):
            return None
        return Checkpoint(
            step=whole["step"],
            state=whole["state"],
            adapter=load_file(path / "adapter.safetensors"),
            moments=load_file(path / "moments.safetensors"),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
