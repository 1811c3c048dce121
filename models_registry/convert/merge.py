"""Merge an adapter into its base, in `.venv-ml`.

    python -m models_registry.convert.merge BASE ADAPTER TARGET

BASE is a base's folder in the store, ADAPTER a PEFT folder; TARGET must be empty or missing. It becomes a whole
model in float32 safetensors, with the base's own tokenizer, chat template and generation settings. The exit code is 0
when it is complete; otherwise the last line on stderr says why.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
from pathlib import Path

from models_registry.convert.checks import TOKENIZER

#: What the weights do not change, taken as it is.
KEPT = (*TOKENIZER, "chat_template.jinja", "generation_config.json", "LICENSE*")


def main(arguments: list[str] | None = None) -> int:
    """Merge what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m models_registry.convert.merge")
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("target", type=Path)
    asked = parser.parse_args(arguments)
    merge(base=asked.base, adapter=asked.adapter, target=asked.target)
    return 0


def merge(*, base: Path, adapter: Path, target: Path) -> None:
    """Write base + adapter as one model. W + (alpha / r) B A, in float32 throughout."""
    import torch  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    target.mkdir(exist_ok=True)
    # Other formats than safetensors are pickles; this version of transformers writes none.
    merged.save_pretrained(target)
    for path in base.iterdir():
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in KEPT):
            shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    sys.exit(main())
