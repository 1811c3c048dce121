"""Small adapters that the store takes; standard library only, both environments use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RANK = 8
CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "r": RANK, "lora_alpha": 16, "bias": "none", "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False, "modules_to_save": None,
    "init_lora_weights": True, "rank_pattern": {}, "alpha_pattern": {},
}  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {
        "prompt_ids": [1, 2, 3], "completion_ids": [4, 5],
        "base": [-1.0, -2.0], "adapter": [-0.5, -1.5],
    },
    {"prompt_ids": [1, 2], "completion_ids": [6], "base": [-3.0], "adapter": [-2.5]},
]  # fmt: skip


def weights(*, rank: int = RANK, dtype: str = "F32", content: bytes = b"\0") -> bytes:
    """Return a safetensors file with one LoRA of a layer that is 4 wide."""
    size = 4 * rank * 4
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    header = {
        "__metadata__": {"format": "pt"},
        f"{name}.lora_A.weight": {"dtype": dtype, "shape": [rank, 4], "data_offsets": [0, size]},
        f"{name}.lora_B.weight": {
            "dtype": dtype, "shape": [4, rank], "data_offsets": [size, 2 * size],
        },
    }  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + (content * (2 * size))[: 2 * size]


def adapter_make(
    folder: Path, *, rows: list[dict[str, Any]] = ROWS, content: bytes = b"\0", **config: Any
) -> Path:
    """Fill a folder as the trainer leaves `version/`; other contents make another hash."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(weights(content=content))
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    (folder / "canary.json").write_text(json.dumps({"rows": rows}))
    (folder / "README.md").write_text("# A version\n")
    return folder
