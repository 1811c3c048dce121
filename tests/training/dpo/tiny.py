"""A random Llama of some thousand numbers and a round's folder around it, made on the spot."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}<assistant>"
NUMBERS = [f"w{number}" for number in range(40)]
WORDS = ["<unk>", "<user>", "<assistant>", "<end>", *NUMBERS]
END = WORDS.index("<end>")
BASE = "b" * 64
#: Where the first of NUMBERS is.
FIRST = WORDS.index(NUMBERS[0])


def base_save(folder: Path) -> Path:
    """Save a random model and its tokenizer under the folder; return its place, named by a hash."""
    place = folder / BASE
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, eos_token_id=END, bos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<end>", model_max_length=64
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(place)
    return place


def line(number: int, **changes: Any) -> dict[str, Any]:
    """Return one line of a snapshot, as the web app writes it; ids as an engine returns them."""
    drawn = random.Random(number)
    prompt, chosen, rejected = (drawn.choices(NUMBERS, k=count) for count in (4, 3, 6))
    ids = {
        name: [WORDS.index(word) for word in words]
        for name, words in {"prompt": prompt, "chosen": chosen, "rejected": rejected}.items()
    }
    return {
        "prompt": [{"role": "user", "content": " ".join(prompt)}],
        "chosen": [{"role": "assistant", "content": " ".join(chosen)}],
        "rejected": [{"role": "assistant", "content": " ".join(rejected)}],
        "prompt_ids": [1, *ids["prompt"], 2],
        "chosen_ids": [*ids["chosen"], END],
        "rejected_ids": ids["rejected"],
        "target": 1.0,
        "weight": 1.0,
        "finish": {"chosen": "stop", "rejected": "length"},
        "pair": number,
        "role": "new",
    } | changes


def loss(**changes: Any) -> dict[str, Any]:
    """Return the loss of run.json: plain DPO; `changes` replace keys."""
    return {
        "name": "dpo",
        "beta": 0.1,
        "ties": False,
        "smoothing": 0.0,
        "nll": 0.0,
        "gamma": None,
        "penalty": None,
        "mask_special": False,
    } | changes


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return run.json for a round on the base below the folder; `changes` replace whole keys."""
    return {
        "schema": 2,
        "round": {"model": "demo", "number": 1},
        "base": {"path": str(folder / BASE), "sha256": BASE},
        "parent": {"path": None, "sha256": BASE, "number": 0},
        "reference": {"kind": "base", "sha256": BASE},
        "scores": str(folder / "scores"),
        "lora": {"rank": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]},
        "loss": loss(),
        "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.0, "warmup": 0.1, "clip": 1.0},
        "epochs": 2,
        "batch_pairs": 4,
        "max_tokens": 64,
        "seed": 0,
        "checkpoint_steps": 2,
        "machine": {"threads": 1, "nice": 0},
    } | changes


def round_save(
    folder: Path,
    *,
    settings: dict[str, Any],
    snapshot: list[dict[str, Any]],
    holdout: list[dict[str, Any]] | None = None,
) -> Path:
    """Write a round's folder."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(settings))
    for name, lines in (("snapshot", snapshot), ("holdout", holdout or [])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder


def events(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Return the events of a round, or those of one kind."""
    path = folder / "events.jsonl"
    found = [json.loads(each) for each in path.read_text().splitlines()] if path.exists() else []
    return [each for each in found if event in (None, each["event"])]


def result(folder: Path) -> dict[str, Any]:
    """Return how a round ended."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found
