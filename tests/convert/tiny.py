"""A model of a few thousand numbers with a real tokenizer, made on the spot."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}<assistant>"
WORDS = ["<unk>", "<user>", "<assistant>", "<end>", "Say", "hello", "."]


def model_save(folder: Path, *, template: str | None = TEMPLATE) -> None:
    """Save config, safetensors weights and tokenizer as a Hugging Face folder."""
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<end>", model_max_length=64
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
