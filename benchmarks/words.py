"""What made-up prompts and answers consist of: words that are one token each to SmolLM2."""

from __future__ import annotations

WORDS = [
    "the",
    "a",
    "model",
    "answer",
    "people",
    "one",
    "two",
    "better",
    "short",
    "long",
    "kind",
    "plain",
    "true",
    "good",
    "bad",
    "never",
    "always",
]
