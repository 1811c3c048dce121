"""Train two steps with TRL on exported files, as they are; print what came of it as JSON.

.venv-bench/bin/python -m tests.bench.trl_trains FILE.jsonl FILE.parquet …
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.convert import tiny

KINDS = {".jsonl": "json", ".parquet": "parquet"}


def train(file: Path, *, model: Path, folder: Path) -> dict[str, Any]:
    """Load one file and hand it to DPOTrainer unchanged."""
    rows = load_dataset(
        KINDS[file.suffix], data_files=str(file), split="train", cache_dir=str(folder / "cache")
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=rows,
        args=DPOConfig(
            output_dir=str(folder / "out"),
            max_steps=2,
            per_device_train_batch_size=2,
            max_length=64,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"rows": len(rows), "columns": rows.column_names, "losses": losses}


def main(files: list[str]) -> None:
    """Train on each file with the same tiny model; the last line of the output is the result."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tiny.model_save(folder / "model")
        found = {
            Path(file).name: train(Path(file), model=folder / "model", folder=folder)
            for file in files
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
