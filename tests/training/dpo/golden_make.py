"""Write golden/trl.json: what TRL's DPOTrainer makes of a tiny model, step by step; runs in .venv-bench.

    .venv-bench/bin/python -m tests.training.dpo.golden_make

test_golden.py runs our trainer on the same weights and triples. Both take them from here, where no number comes
from a generator that another version of a library could change.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.training.dpo import tiny
from training.dpo.spec import TARGET_MODULES

GOLDEN = Path(__file__).parent / "golden" / "trl.json"
ADAPTER = "c" * 64
LORA = {"rank": 8, "alpha": 16, "target_modules": list(TARGET_MODULES)}
STEPS = 10
OPTIMIZER = {"weight_decay": 0.01, "warmup": 0.0, "clip": 1.0}
PAIRS = 6
#: Our loss and the reference, and what TRL calls the same; the rate is for both.
CASES: dict[str, dict[str, Any]] = {
    "dpo": {
        "loss": tiny.loss(),
        "learning_rate": 5e-3,
        "reference": "base",
        "trl": {"loss_type": ["sigmoid"], "beta": 0.1},
    },
    "dpo_parent": {
        "loss": tiny.loss(beta=0.5),
        "learning_rate": 1e-3,
        "reference": "parent",
        "trl": {"loss_type": ["sigmoid"], "beta": 0.5},
    },
    "dpo_nll": {
        "loss": tiny.loss(nll=0.2),
        "learning_rate": 5e-3,
        "reference": "base",
        # TRL's `sft` is a mean over the tokens of a micro-batch. Ours is one over those of a completion; with one
        # pair a micro-batch that is the same.
        "trl": {
            "loss_type": ["sigmoid", "sft"],
            "loss_weights": [1.0, 0.2],
            "beta": 0.1,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": PAIRS,
        },
    },
    "robust": {
        "loss": tiny.loss(name="robust", smoothing=0.1),
        "learning_rate": 5e-3,
        "reference": "base",
        "trl": {"loss_type": ["robust"], "label_smoothing": 0.1, "beta": 0.1},
    },
    "ipo": {
        "loss": tiny.loss(name="ipo"),
        "learning_rate": 5e-3,
        "reference": "base",
        "trl": {"loss_type": ["ipo"], "beta": 0.1},
    },
    "ln": {
        "loss": tiny.loss(name="ln", beta=5.0),
        "learning_rate": 5e-4,
        "reference": "base",
        "trl": {"loss_type": ["sigmoid_norm"], "beta": 5.0},
    },
    "apo_zero": {
        "loss": tiny.loss(name="apo_zero"),
        "learning_rate": 5e-3,
        "reference": "base",
        "trl": {"loss_type": ["apo_zero"], "beta": 0.1},
    },
}
#: TRL's settings that are equal in all cases.
TRL: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": PAIRS,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "optim": "adamw_torch",
    "weight_decay": OPTIMIZER["weight_decay"],
    "max_grad_norm": OPTIMIZER["clip"],
    "bf16": False,
    "gradient_checkpointing": False,
    "max_length": 64,
    "seed": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def model_save(folder: Path) -> dict[str, str]:
    """Save the base and an adapter that already changes it under the folder; return the hash of each one's weights."""
    base = tiny.base_save(folder) / "model.safetensors"
    save_file(_drawn(load_file(base), scale=0.4), base, metadata={"format": "pt"})
    adapter = folder / ADAPTER
    LoraConfig(
        task_type="CAUSAL_LM", r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=LORA["target_modules"],
        lora_dropout=0.0, bias="none",
    ).save_pretrained(adapter)  # fmt: skip
    weights = adapter / "adapter_model.safetensors"
    save_file(_drawn(_adapter_empty(load_file(base)), scale=0.1), weights)
    return {"base": _hash(load_file(base)), "adapter": _hash(load_file(weights))}


def lines() -> list[dict[str, Any]]:
    """Return the triples as lines of a snapshot: every length another, two with one prompt, all completions ended."""
    found = []
    for number in range(PAIRS):
        drawn = random.Random(number)
        words = {
            "prompt": random.Random(max(number, 1)).choices(tiny.NUMBERS, k=3 + number // 2),
            "chosen": drawn.choices(tiny.NUMBERS, k=2 + number),
            "rejected": drawn.choices(tiny.NUMBERS, k=9 - number),
        }
        ids = {name: [tiny.WORDS.index(word) for word in each] for name, each in words.items()}
        found.append(
            tiny.line(
                number,
                prompt=[{"role": "user", "content": " ".join(words["prompt"])}],
                chosen=[{"role": "assistant", "content": " ".join(words["chosen"])}],
                rejected=[{"role": "assistant", "content": " ".join(words["rejected"])}],
                prompt_ids=[
                    tiny.WORDS.index("<user>"),
                    *ids["prompt"],
                    tiny.WORDS.index("<assistant>"),
                ],
                chosen_ids=[*ids["chosen"], tiny.END],
                rejected_ids=[*ids["rejected"], tiny.END],
                finish={"chosen": "stop", "rejected": "stop"},
            )
        )
    return found


def _adapter_empty(base: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an adapter on the base's linear layers, under PEFT's names, without values."""
    rank, found = LORA["rank"], {}
    for name, weight in base.items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] in TARGET_MODULES:
            out, into = weight.shape
            found[f"base_model.model.{layer}.lora_A.weight"] = torch.empty(rank, into)
            found[f"base_model.model.{layer}.lora_B.weight"] = torch.empty(out, rank)
    return found


def _drawn(tensors: dict[str, Tensor], *, scale: float) -> dict[str, Tensor]:
    """Return tensors of the same names and shapes with numbers from -scale to scale, around 1 for norms."""
    found = {}
    for name, tensor in sorted(tensors.items()):
        number = random.Random(name)
        values = [number.uniform(-scale, scale) for _ in range(tensor.numel())]
        found[name] = torch.tensor(values).reshape(tensor.shape) + ("norm" in name)
    return found


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _trained(folder: Path, case: dict[str, Any]) -> list[dict[str, float]]:
    """Run TRL's trainer on a case and return what it logs of each step."""
    from datasets import Dataset  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    from trl import DPOConfig, DPOTrainer  # noqa: PLC0415

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / tiny.BASE, dtype=torch.float32)

    policy = PeftModel.from_pretrained(base(), folder / ADAPTER, is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(folder / tiny.BASE)
    trainer = DPOTrainer(
        model=policy,
        # Without one TRL compares with a copy of the adapter as it was.
        ref_model=base() if case["reference"] == "base" else None,
        args=DPOConfig(
            output_dir=str(folder / "trl"),
            learning_rate=case["learning_rate"],
            **(TRL | case["trl"]),
        ),
        train_dataset=Dataset.from_list([_text(line) for line in lines()]),
        processing_class=tokenizer,
    )
    for line, row in zip(lines(), trainer.train_dataset, strict=True):
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            assert row[name] == line[name], name
    trainer.train()
    names = {
        "loss": "loss", "grad_norm": "grad_norm", "learning_rate": "learning_rate",
        "log_prob_chosen": "logps/chosen", "log_prob_rejected": "logps/rejected",
        "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected",
    }  # fmt: skip
    logged = [each for each in trainer.state.log_history if "loss" in each]
    assert len(logged) == STEPS
    return [{ours: each[theirs] for ours, theirs in names.items()} for each in logged]


def _text(line: dict[str, Any]) -> dict[str, str]:
    """Return a triple as TRL's text format, which the tokeniser turns into the line's ids; TRL adds the end."""
    asked, chosen, rejected = (
        line[name][0]["content"] for name in ("prompt", "chosen", "rejected")
    )
    return {
        "prompt": f"<user> {asked} <assistant>",
        "chosen": f" {chosen}",
        "rejected": f" {rejected}",
    }


def main() -> None:
    """Run every case and write the file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        hashes = model_save(folder)
        found = {name: case | {"steps": _trained(folder, case)} for name, case in CASES.items()}
    content = {
        "from": {
            "made_by": "tests/training/dpo/golden_make.py",
            "packages": {
                name: version(name)
                for name in ("trl", "transformers", "peft", "torch", "accelerate", "datasets")
            },
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": 1,
            "dtype": "float32",
            "dropout": 0,
            "weights_sha256": hashes,
            "lora": LORA,
            "trl": TRL,
        },
        "triples": [
            {key: line[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}
            for line in lines()
        ],
        "cases": found,
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
