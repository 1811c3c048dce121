"""The weighted mean of several adapters on one base, as an adapter of the same rank; run in `.venv-ml`.

    python -m training.dpo.average OUT FOLDER FOLDER ... --base BASE [--weights 0.5,0.5]

The mean of models trained on other data or with other settings is often steadier than each of them (model
averaging, Llama 3, arXiv 2407.21783 section 4.1.5). The mean of the matrices B and A is *not* that of the models:
what an adapter adds to a weight is s B A with s = alpha / rank, so the mean is taken of these products. Writes a PEFT
folder as a round does. The last line of its output is JSON: how much of the mean got lost. Exit code 1 with a
sentence on stderr when these adapters have no mean.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from training.dpo import files
from training.dpo.failures import RoundFailed
from training.dpo.model import PLAIN

WEIGHTS, CONFIG, CANARY, CARD = (
    "adapter_model.safetensors", "adapter_config.json", "canary.json", "README.md",
)  # fmt: skip
#: Recorded completions that the mean is checked with.
CANARY_ROWS = 3
#: Mean distance in nats between recorded and fresh log-probabilities of a base: ten times what two machines differ by.
SAME_BASE = 1e-3
A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as a round leaves it."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    #: Completions with their recorded log-probabilities.
    rows: list[dict[str, Any]]

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return float(self.config["lora_alpha"]) / int(self.config["r"])


@dataclass(frozen=True, slots=True)
class Mean:
    """An adapter's tensors, and which share of the exact mean's Frobenius norm is not in them."""

    tensors: dict[str, Tensor]
    lost: float


def average(out: Path, folders: list[Path], *, base: Path, shares: list[float]) -> Mean:
    """Write the mean of some adapters, whole or not at all. Raises RoundFailed, OSError."""
    adapters = [read(folder) for folder in folders]
    check_alike(adapters)
    mean = mean_of(adapters, shares)
    print(f"The adapter holds the mean but for {mean.lost:.2%} of its norm", flush=True)
    with files.folder(out) as draft:
        config = adapters[0].config | {"base_model_name_or_path": None}
        files.write(draft / WEIGHTS, save(mean.tensors, metadata={"format": "pt"}))
        files.write_json(draft / CONFIG, config)
        print("Checking it on the base", flush=True)
        files.write_json(draft / CANARY, {"rows": _canary(base, draft, adapters)})
        files.write(draft / CARD, card(adapters, shares, mean).encode())
    return mean


def read(folder: Path) -> Adapter:
    """Read an adapter's folder. Raises RoundFailed."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        rows = json.loads((folder / CANARY).read_text(encoding="utf-8"))["rows"]
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise _refused(f"{folder.name} cannot be read ({error})") from error
    fancy = [name for name in PLAIN if config.get(name)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or fancy:
        raise _refused(f"{folder.name} is no plain LoRA adapter")
    return Adapter(name=folder.name, config=config, tensors=tensors, rows=rows)


def check_alike(adapters: list[Adapter]) -> None:
    """Refuse adapters that do not add to the same weights with the same rank. Raises RoundFailed."""
    first = adapters[0]
    for other in adapters[1:]:
        if other.config["r"] != first.config["r"]:
            raise _refused(
                f"{first.name} has rank {first.config['r']}, {other.name} {other.config['r']}"
            )
        if set(other.config["target_modules"]) != set(first.config["target_modules"]):
            raise _refused(f"{first.name} and {other.name} change other layers")
        if _shapes(other) != _shapes(first):
            raise _refused(f"{first.name} and {other.name} belong to bases of different shapes")


def mean_of(adapters: list[Adapter], shares: list[float]) -> Mean:
    """Return the best adapter of their rank for sum(share * s B A), by the singular values of that sum.

    Shares are of 1. The whole matrix is never made: it is the product of the stacked factors, of which QR leaves
    a square one as wide as all ranks together. In float64, where the only loss is that of rank.
    """
    rank, scale = int(adapters[0].config["r"]), adapters[0].scale
    tensors, kept, lost = {}, 0.0, 0.0
    for name in sorted(name.removesuffix(A) for name in adapters[0].tensors if name.endswith(A)):
        # (out, k r) and (k r, in).
        left = torch.cat(
            [
                share * adapter.scale * adapter.tensors[name + B].double()
                for adapter, share in zip(adapters, shares, strict=True)
            ],
            dim=1,
        )
        right = torch.cat([adapter.tensors[name + A].double() for adapter in adapters], dim=0)
        u, sizes, v = _singular(left, right)
        roots = (sizes[:rank] / scale).sqrt()
        tensors[name + B] = _widened(u[:, :rank] * roots, rank).float()
        tensors[name + A] = _widened((v[:, :rank] * roots), rank).T.contiguous().float()
        kept += sizes[:rank].square().sum().item()
        lost += sizes[rank:].square().sum().item()
    whole = kept + lost
    return Mean(tensors=tensors, lost=math.sqrt(lost / whole) if whole else 0.0)


def card(adapters: list[Adapter], shares: list[float], mean: Mean) -> str:
    """Return the mean's card as markdown."""
    lines = [
        f"# The mean of {len(adapters)} adapters",
        "",
        (
            "A LoRA adapter that adds the weighted mean of what these add, brought back to their rank; nothing was"
            f" trained. {mean.lost:.2%} of the mean's norm got lost by that."
        ),
        "",
        "| adapter | share |",
        "| --- | --- |",
        *(
            f"| `{adapter.name}` | {share:.4g} |"
            for adapter, share in zip(adapters, shares, strict=True)
        ),
    ]
    return "\n".join(lines) + "\n"


def shares_of(weights: str | None, count: int) -> list[float]:
    """Return shares of 1 from weights with commas between; equal ones from nothing. Raises RoundFailed."""
    if weights is None:
        return [1 / count] * count
    try:
        found = [float(weight) for weight in weights.split(",")]
    except ValueError as error:
        raise _refused(f"{weights} are no numbers with commas between") from error
    if len(found) != count or not all(weight > 0 and math.isfinite(weight) for weight in found):
        raise _refused(f"it takes {count} weights above 0, one for each adapter")
    return [weight / sum(found) for weight in found]


def _singular(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, V with left @ right = U diag(S) V^T, the largest singular value first."""
    left_basis, left_rest = torch.linalg.qr(left)
    right_basis, right_rest = torch.linalg.qr(right.T)
    u, sizes, vh = torch.linalg.svd(left_rest @ right_rest.T, full_matrices=False)
    return left_basis @ u, sizes, right_basis @ vh.T


def _widened(columns: Tensor, rank: int) -> Tensor:
    """Add columns of zeros: a layer may be narrower than the rank."""
    return torch.nn.functional.pad(columns, (0, rank - columns.shape[1]))


def _canary(base: Path, folder: Path, adapters: list[Adapter]) -> list[dict[str, Any]]:
    """Return what an engine must reproduce, of completions that the adapters were checked with. Raises RoundFailed.

    Their recorded log-probabilities under the base prove that each was trained on this one.
    """
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )  # fmt: skip
    policy = PeftModel.from_pretrained(model, folder).eval()
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for adapter in adapters:
        for row in adapter.rows:
            ids = (row["prompt_ids"], row["completion_ids"])
            with policy.disable_adapter():
                fresh = log_probs(policy, *ids)
            apart = (torch.tensor(row["base"]) - fresh).abs().mean().item()
            if not apart <= SAME_BASE:
                raise _refused(
                    f"{adapter.name} was made on another base: its completions differ by {apart:.3g} nats a token"
                )
            scores = {"base": fresh.tolist(), "adapter": log_probs(policy, *ids).tolist()}
            found.setdefault((*ids[0], -1, *ids[1]), row | scores)
    return _mixed(list(found.values()))


def _mixed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a few rows from all over the list: they stand adapter by adapter."""
    return rows[:: -(-len(rows) // CANARY_ROWS)]


def log_probs(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> Tensor:
    """Return log pi(y_t | x, y_<t) of every token of a completion, in float32; shape (n,).

    Straight from the model's logits and without the trainer's shortcuts, so it also checks those.
    """
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]]), use_cache=False).logits
    # The output at position t predicts token t + 1.
    scores = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)  # (n, V)
    return scores.gather(1, torch.tensor(completion)[:, None])[:, 0]


def _shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}


def _refused(why: str) -> RoundFailed:
    return RoundFailed("average_refused", f"These adapters cannot be averaged: {why}.")


def main(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.dpo.average")
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--weights", help="as in 0.5,0.5; only their proportion counts")
    given = parser.parse_args(arguments)
    try:
        if len(given.folders) < 2:
            raise _refused("it takes two at least")
        shares = shares_of(given.weights, len(given.folders))
        mean = average(given.out, given.folders, base=given.base, shares=shares)
    except RoundFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    print(json.dumps({"lost": mean.lost, "shares": shares}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
