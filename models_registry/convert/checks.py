"""Whether a folder is a base that Pairloop can train and serve; standard library only."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

#: What is taken from a folder; everything else stays behind.
TAKEN = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "LICENSE*",
)  # fmt: skip
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
#: Formats that can run code when they are loaded.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")


class BaseRefused(Exception):
    """A base that Pairloop does not take, with the reason as a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        """Take a code for machines and a sentence for people."""
        super().__init__(sentence)
        self.code = code


def folder_check(folder: Path) -> None:
    """Refuse what can be refused without loading anything. Raises BaseRefused."""
    if not folder.is_dir():
        raise BaseRefused("base_missing", f"There is no folder {folder}.")
    config = _json(folder / "config.json")
    if not config:
        raise BaseRefused(
            "base_config_missing",
            f"{folder} has no readable config.json; name a Hugging Face model folder.",
        )
    if "auto_map" in config or "auto_map" in _json(folder / "tokenizer_config.json"):
        raise BaseRefused(
            "base_remote_code",
            "This model brings its own code (auto_map), which Pairloop never runs; "
            "choose one that transformers supports by itself.",
        )
    if not list(folder.glob("*.safetensors")):
        _refuse_weights(folder)


def _refuse_weights(folder: Path) -> None:
    if any(list(folder.glob(pattern)) for pattern in PICKLES):
        raise BaseRefused(
            "base_pickle",
            "The weights are pickle files, which can run code when loaded; "
            "convert them to safetensors first (save_pretrained in transformers does).",
        )
    raise BaseRefused("base_weights_missing", f"{folder} has no *.safetensors files.")


def folder_take(source: Path, target: Path) -> None:
    """Copy the files that belong to a base, and nothing else. Raises BaseRefused when the disk is too small."""
    taken = [
        path
        for path in sorted(source.iterdir())
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in TAKEN)
    ]
    needed = sum(path.stat().st_size for path in taken)
    target.mkdir(parents=True)
    free = shutil.disk_usage(target).free
    if free < needed + (1 << 30):
        raise BaseRefused(
            "disk_full",
            f"The base needs {needed / 1e9:.1f} GB and 1 GB to spare, but only {free / 1e9:.1f} GB are free.",
        )
    for path in taken:
        shutil.copyfile(path, target / path.name)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
