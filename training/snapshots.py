"""Triples as the lines of a snapshot: what the trainer reads, and what is hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from annotate.triples import Triple


@dataclass(frozen=True, slots=True)
class Line:
    """One triple, frozen: its text in the file, without the line's end, and the text's hash."""

    triple: Triple
    role: str
    text: str
    sha256: str


def line_of(triple: Triple, *, role: str) -> Line:
    """Freeze a triple. The same triple gives the same text."""
    text = json.dumps(_fields(triple, role), ensure_ascii=False, sort_keys=True)
    return Line(triple, role, text, hashlib.sha256(text.encode()).hexdigest())


def file_text(lines: Iterable[Line]) -> str:
    """Return the whole file."""
    return "".join(f"{line.text}\n" for line in lines)


def _fields(triple: Triple, role: str) -> dict[str, Any]:
    """Return what the trainer reads, and where it came from."""
    return {
        "prompt": triple.messages,
        "chosen": triple.chosen.messages,
        "rejected": triple.rejected.messages,
        "target": triple.target,
        "weight": triple.weight,
        "tags": triple.tags,
        "prompt_ids": triple.prompt_ids,
        "chosen_ids": triple.chosen.ids,
        "rejected_ids": triple.rejected.ids,
        "finish": {
            "chosen": triple.chosen.finish_reason,
            "rejected": triple.rejected.finish_reason,
        },
        "version": {"chosen": triple.chosen.version, "rejected": triple.rejected.version},
        "origin": triple.origin,
        "pair": triple.pair_id,
        "judgements": triple.judgement_ids,
        "prompt_id": triple.prompt_id,
        "chosen_completion": triple.chosen.completion_id,
        "rejected_completion": triple.rejected.completion_id,
        "role": role,
    }
