"""Where the time of training steps goes, by kind of work, as shares of the whole.

    .venv-ml/bin/python -m benchmarks.train_profile RUN_FOLDER

RUN_FOLDER is one of `make bench-train`, below var/bench/train/. Takes every step twice and measures the second time.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from training.dpo import data, model, objective, reference, score, spec
from training.dpo.train import PACK_TOKENS

PRODUCTS = ("aten::mm", "aten::addmm")
#: A part of an operator's name, the first that fits -> its kind of work.
KINDS = {
    "flash_attention_for_cpu_backward": "attention, back",
    "flash_attention": "attention, forward",
    "dam": "optimizer",
    "copy_": "copies",
    "cat": "copies",
    "fill_": "copies",
    "mul": "norms, gates, angles, sums",
    "silu": "norms, gates, angles, sums",
    "add": "norms, gates, angles, sums",
}


def main(folder: Path) -> None:
    """Print a line per kind of work, the largest first."""
    asked = spec.read(folder / "run.json")
    torch.set_num_threads(asked.machine.threads)
    policy = model.policy_load(asked)
    by = score.scorer(policy)
    found = data.read(
        folder / "snapshot.jsonl", tokeniser=model.tokeniser_load(asked.base), max_tokens=asked.max_tokens,
        vocabulary=model.vocabulary(policy), mask_special=asked.loss.mask_special,
    )  # fmt: skip
    assert asked.reference is not None
    scores = reference.open_for(asked, asked.reference)
    optimizer = torch.optim.AdamW(model.trainable(policy).values(), lr=1e-5, weight_decay=0.0)

    def steps() -> None:
        for step in range(data.steps_per_epoch(len(found.triples), asked.batch_pairs)):
            batch = data.batch(
                found.triples, step=step, batch_pairs=asked.batch_pairs, seed=asked.seed
            )
            optimizer.zero_grad()
            objective.batch_score(by, batch, scores, asked.loss, budget=PACK_TOKENS)
            optimizer.step()

    steps()
    began = time.perf_counter()
    steps()
    plain = time.perf_counter() - began
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        steps()
    spent: Counter[str] = Counter()
    for event in seen.key_averages(group_by_input_shape=True):
        spent[_kind(event, asked.lora.rank, model.vocabulary(policy))] += event.self_cpu_time_total
    whole = sum(spent.values())
    print(f"{plain:.2f} s without the profiler, {whole / 1e6:.2f} s with it")
    for kind, took in spent.most_common():
        print(f"{took / whole:6.1%}  {kind}")


def _kind(event: Any, rank: int, vocabulary: int) -> str:
    """Name the kind of work that an operator on tensors of certain shapes belongs to."""
    sizes = {size for shape in event.input_shapes for size in shape}
    is_head = vocabulary in sizes
    if event.key in PRODUCTS:
        if is_head:
            return "products of the head"
        narrow = {rank, 2 * rank, 3 * rank} & sizes
        return (
            "products with A and B, and merging them"
            if narrow
            else "products with the layers' weights"
        )
    if is_head:
        return "softmax of the head"
    return next(
        (kind for part, kind in KINDS.items() if part in event.key),
        "everything else, Python included",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
