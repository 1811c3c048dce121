"""Whether an engine computes with an adapter what the trainer did: recorded log-probabilities against fresh ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models_registry.engine.types import CONTEXT_LENGTH, Engine

FILE = "canary.json"
#: Rows of at most a few hundred tokens are a few kilobytes each.
SIZE_LIMIT = 4 * 2**20
MOST_ROWS = 3
#: Prompt and completion in one question; vLLM reads one less than its longest sequence.
MOST_TOKENS = CONTEXT_LENGTH - 1
#: Two implementations in fp32 differ by this much; a smaller effect cannot be told from none.
FLOOR = 1e-4
#: The engine may be off by this share of what the adapter changes.
TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class Row:
    """One completion with the log-probability of each of its tokens, as the trainer found them."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    base: tuple[float, ...]
    adapter: tuple[float, ...]

    def cut(self, tokens: int) -> Row:
        """Return the beginning of it, at most that long. Raises ValueError when the prompt is that long."""
        room = tokens - len(self.prompt_ids)
        if room < 1:
            raise ValueError(f"A prompt in {FILE} is longer than the engine reads.")
        return Row(
            prompt_ids=self.prompt_ids,
            completion_ids=self.completion_ids[:room],
            base=self.base[:room],
            adapter=self.adapter[:room],
        )


@dataclass(frozen=True, slots=True)
class Canary:
    """What came out of one check."""

    passed: bool
    #: Mean change that the adapter makes to a token's log-probability, in nat; None: not measured.
    effect: float | None = None
    #: Mean distance of the engine's from the trainer's, in nat.
    difference: float | None = None
    note: str = ""


def rows_read(folder: Path) -> tuple[Row, ...]:
    """Return the rows of a version's canary.json. Raises ValueError with a sentence, or OSError."""
    path = folder / FILE
    if path.stat().st_size > SIZE_LIMIT:
        raise ValueError(f"{FILE} is larger than {SIZE_LIMIT // 2**20} MiB.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{FILE} is not JSON.") from error
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_ROWS:
        raise ValueError(f"{FILE} must have one to {MOST_ROWS} rows.")
    return tuple(_row(row) for row in rows)


def measure(engine: Engine, *, name: str, folder: Path) -> Canary:
    """Ask an engine for the recorded completions and judge its answers. Raises EngineError, ValueError."""
    rows = [row.cut(MOST_TOKENS) for row in rows_read(folder)]
    scored = [
        engine.score(model=name, prompt_ids=row.prompt_ids, completion_ids=row.completion_ids)
        for row in rows
    ]
    return judge(rows, scored)


def judge(rows: Sequence[Row], scored: Sequence[Sequence[float]]) -> Canary:
    """Compare what an engine scored, row by row, with what the trainer recorded."""
    effect = _distance([row.adapter for row in rows], [row.base for row in rows])
    difference = _distance(scored, [row.adapter for row in rows])
    if effect < FLOOR:
        return Canary(True, effect, difference, "indistinguishable from base")
    if difference <= effect * TOLERANCE:
        return Canary(True, effect, difference)
    return Canary(
        False,
        effect,
        difference,
        "The engine computes something else than the trainer did, as if the adapter were not applied.",
    )


def _distance(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Return the mean absolute difference over the tokens of all rows."""
    apart = [
        abs(one - other)
        for row, row_of_others in zip(some, others, strict=True)
        for one, other in zip(row, row_of_others, strict=True)
    ]
    return math.fsum(apart) / len(apart)


def _row(row: Any) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"A row of {FILE} is not an object.")  # noqa: TRY004 one error for one thing
    read = Row(
        prompt_ids=_ids(row, "prompt_ids"),
        completion_ids=_ids(row, "completion_ids"),
        base=_log_probs(row, "base"),
        adapter=_log_probs(row, "adapter"),
    )
    if not len(read.completion_ids) == len(read.base) == len(read.adapter):
        raise ValueError(f"A row of {FILE} has not one log-probability for each completion token.")
    return read


def _ids(row: dict[str, Any], key: str) -> tuple[int, ...]:
    value = row.get(key)
    # bool is a kind of int, hence no isinstance.
    if not isinstance(value, list) or not value or any(type(n) is not int or n < 0 for n in value):
        raise ValueError(f"A row of {FILE} has no token ids in {key!r}.")
    return tuple(value)


def _log_probs(row: dict[str, Any], key: str) -> tuple[float, ...]:
    value = row.get(key)
    if not isinstance(value, list) or any(
        type(n) not in (int, float) or not math.isfinite(n) for n in value
    ):
        raise ValueError(f"A row of {FILE} has no log-probabilities in {key!r}.")
    return tuple(float(n) for n in value)
