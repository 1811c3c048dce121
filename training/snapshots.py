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
    """Return TRL's conversational keys, the ids as the engine returned them, and where it all came from."""
    chosen, rejected = triple.chosen, triple.rejected
    return {
        "prompt": triple.messages,
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "prompt_ids": triple.prompt_ids,
        "chosen_ids": chosen.ids,
        "rejected_ids": rejected.ids,
        "target": triple.target,
        "weight": triple.weight,
        "finish": {"chosen": chosen.finish_reason, "rejected": rejected.finish_reason},
        "pair": triple.pair_id,
        "prompt_id": triple.prompt_id,
        "chosen_completion": chosen.completion_id,
        "rejected_completion": rejected.completion_id,
        "versions": {"chosen": chosen.version, "rejected": rejected.version},
        "judgements": triple.judgement_ids,
        "role": role,
    }
