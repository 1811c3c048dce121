"""One epoch of TRL's DPOTrainer on given token ids, in `.venv-bench`; the last line of output is what it took, as JSON.

    python benchmarks/trl_train.py JOB.json

JOB.json: `base` (folder), `pairs` in the order of the steps (`prompt`, `chosen`, `rejected` as messages and as `…_ids`), `batch` x
`accumulation` pairs a step, `lora`, `optimizer`, `beta`, `seed`, `threads`, `folder` (for TRL's own files). Only settings
that TRL offers are used; nothing of it is patched.
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
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

#: Columns that TRL's data collator reads.
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")


class Clock(TrainerCallback):
    """Measure every optimizer step, from its first forward to the end of its update."""

    def __init__(self) -> None:
        """Start empty."""
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note when a step begins; its batches are there already."""
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note how long it took."""
        self.seconds.append(time.perf_counter() - self._began)


def config(job: dict[str, Any]) -> DPOConfig:
    """Return TRL's settings: float32, nothing recomputed, the given order, the rate linearly down to 0."""
    return DPOConfig(
        output_dir=job["folder"],
        num_train_epochs=1,
        per_device_train_batch_size=job["batch"],
        gradient_accumulation_steps=job["accumulation"],
        train_sampling_strategy="sequential",
        learning_rate=job["optimizer"]["learning_rate"],
        weight_decay=job["optimizer"]["weight_decay"],
        max_grad_norm=job["optimizer"]["clip"],
        lr_scheduler_type="linear",
        warmup_steps=0,
        beta=job["beta"],
        seed=job["seed"],
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def trainer_of(job: dict[str, Any], clock: Clock) -> tuple[DPOTrainer, int]:
    """Return the trainer on the ids of the job, and how many tokens TRL's own tokenisation would add to them."""
    pairs = job["pairs"]
    messages = Dataset.from_list([{part: pair[part] for part in ("prompt", "chosen", "rejected")} for pair in pairs])  # fmt: skip
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=job["lora"]["rank"], lora_alpha=job["lora"]["alpha"],
        target_modules=job["lora"]["target_modules"], lora_dropout=0.0, bias="none",
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(job["base"]),
        args=config(job),
        train_dataset=messages,
        peft_config=lora,
        callbacks=[clock],
    )
    ids = Dataset.from_list([{part: pair[part] for part in IDS} for pair in pairs])
    extra = tokens(trainer.train_dataset) - tokens(ids)
    # The chat template ends an answer with a newline after its end of turn, which no engine returns and nobody should
    # learn. So TRL trains on the ids of the triples themselves, as it would after a tokenisation of one's own.
    trainer.train_dataset = ids
    return trainer, extra


def tokens(rows: Dataset) -> int:
    """Count the tokens of all columns of ids."""
    return sum(len(row[part]) for row in rows for part in IDS)


def adapter_sha256(model: torch.nn.Module) -> str:
    """Return one hash of all tensors of the adapter, by the names PEFT gives them in files."""
    whole = hashlib.sha256()
    for name, tensor in sorted(get_peft_model_state_dict(model).items()):
        whole.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return whole.hexdigest()


def peak_mb() -> float:
    """Return this program's peak memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main(path: Path) -> None:
    """Train and print."""
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    clock = Clock()
    trainer, extra = trainer_of(job, clock)
    adapter = adapter_sha256(trainer.model)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    print(
        json.dumps(
            {
                "seconds": sum(clock.seconds),
                "step_seconds": clock.seconds,
                "losses": [entry["loss"] for entry in logged],
                "grad_norms": [entry["grad_norm"] for entry in logged],
                "rates": [entry["learning_rate"] for entry in logged],
                "peak_mb": peak_mb(),
                "extra_tokens": extra,
                "adapter": adapter,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
