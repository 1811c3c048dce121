"""What only `.venv-ml` can tell the benchmark of training: token ids, the model's sizes, the machine's speed.

    python -m benchmarks.train_material prepare JOB.json    job: base, data (JSONL), lora, seed, longest, threads
    python -m benchmarks.train_material sgemm THREADS

The last line of output is the answer as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from training.dpo import model
from training.dpo.spec import Base, Lora

#: Rows, inner, columns: a step's own products (tokens x hidden x intermediate of SmolLM2-135M), and one that any library does best.
SHAPES = ((1024, 576, 1536), (1024, 1536, 576), (2048, 2048, 2048))
SGEMM_SECONDS = 2.0


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Return the data's pairs as ids, those that are too long left out, and the model's sizes."""
    base = Base(path=Path(job["base"]), sha256=Path(job["base"]).name)
    tokeniser = model.tokeniser_load(base)
    pairs, left_out = [], 0
    for line in Path(job["data"]).read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        row = json.loads(line)
        parts = {
            part: messages(row[part], role)
            for part, role in (
                ("prompt", "user"),
                ("chosen", "assistant"),
                ("rejected", "assistant"),
            )
        }
        ids = {
            "prompt_ids": tokeniser.prompt(parts["prompt"]),
            "chosen_ids": tokeniser.answer(parts["chosen"][0]["content"], "stop"),
            "rejected_ids": tokeniser.answer(parts["rejected"][0]["content"], "stop"),
        }
        longest = len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))
        if longest > job["longest"] or ids["chosen_ids"] == ids["rejected_ids"]:
            left_out += 1
        else:
            pairs.append(parts | ids)
    return {"pairs": pairs, "left_out": left_out, "sizes": sizes(job, base)}


def messages(given: str | list[dict[str, str]], role: str) -> list[dict[str, str]]:
    """Return a conversation, of plain text a turn of it."""
    return [{"role": role, "content": given}] if isinstance(given, str) else given


def sizes(job: dict[str, Any], base: Base) -> dict[str, Any]:
    """Return how many parameters what has, and the hash of the fresh adapter that the trainer would make."""
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    linear = [module for module in loaded.modules() if isinstance(module, torch.nn.Linear)]
    head = loaded.get_output_embeddings().weight.numel()
    body = sum(module.weight.numel() for module in linear) - head
    lora = Lora(**job["lora"] | {"target_modules": tuple(job["lora"]["target_modules"])})
    # As training.dpo.model.policy_load makes it.
    torch.manual_seed(job["seed"])
    policy = get_peft_model(loaded, model.lora_config(lora))
    whole = hashlib.sha256()
    tensors = get_peft_model_state_dict(policy)
    for name, tensor in sorted(tensors.items()):
        whole.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return {
        "body": body,
        "head": head,
        "lora": sum(tensor.numel() for tensor in tensors.values()),
        "adapter": whole.hexdigest(),
    }


def sgemm(threads: int) -> dict[str, float]:
    """Return the GFLOP/s that the machine holds in products of float32 matrices, of the shape it does best."""
    torch.set_num_threads(threads)
    return {"gflops": max(_gflops(*shape) for shape in SHAPES)}


def _gflops(rows: int, inner: int, columns: int) -> float:
    """Return the mean rate over some seconds: a burst of milliseconds is nothing that a step could hold."""
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    out = torch.empty(rows, columns)
    torch.mm(left, right, out=out)
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < SGEMM_SECONDS:
        torch.mm(left, right, out=out)
        count += 1
    return 2 * rows * inner * columns * count / spent / 1e9


def main(arguments: list[str]) -> None:
    """Do what the command line says and print it."""
    if arguments[0] == "sgemm":
        print(json.dumps(sgemm(int(arguments[1]))))
    else:
        print(json.dumps(prepare(json.loads(Path(arguments[1]).read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main(sys.argv[1:])
