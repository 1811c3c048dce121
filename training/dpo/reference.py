"""Log-probabilities under the reference: scored once, then read, by later epochs, attempts and rounds.

<scores>/<sha256 of the reference>/ holds a JSON file per round that scored something. A round reads all of
them and writes only its own, so that rounds need not wait for each other. Deleting any costs time only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.dpo import files
from training.dpo.data import Row, Triple
from training.dpo.failures import RoundFailed
from training.dpo.pack import Pack, pack, split
from training.dpo.spec import Reference, Spec

#: A killed round scores about so many completions again.
SAVED_EVERY = 32


class Scores:
    """The reference's log-probability S0 of every row it was asked for."""

    def __init__(self, folder: Path, *, own: str) -> None:
        """Read what rounds before this one scored."""
        self._path = folder / f"{own}.json"
        self._known: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.json")):
            self._known |= _read(path)
        self._own = _read(self._path)

    def __contains__(self, row: Row) -> bool:
        """Return whether the row was scored already."""
        return row.key in self._known

    def is_others(self, row: Row) -> bool:
        """Return whether another round scored the row."""
        return row.key in self._known and row.key not in self._own

    def __getitem__(self, row: Row) -> float:
        """Return S0 of the row."""
        return self._known[row.key]

    def add(self, row: Row, value: float) -> None:
        """Take the score of one row; on disk after the next save."""
        self._known[row.key] = self._own[row.key] = value

    def save(self) -> None:
        """Write this round's own file."""
        files.write_json(self._path, {"log_probs": self._own})


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass over the triples cost: completions in all and scored anew, tokens computed for those."""

    completions: int
    scored: int
    tokens: int


def open_for(spec: Spec, reference: Reference) -> Scores:
    """Open the store of this round's reference."""
    own = f"{spec.round.model}-{spec.round.number}"
    return Scores(spec.scores / reference.sha256, own=own)


def fill(
    scores: Scores,
    *,
    log_probs: Callable[[Pack], Tensor],
    triples: Sequence[Triple],
    budget: int,
    progress: Callable[[int, int], None],
) -> Pass:
    """Score what the store lacks, in packs of at most `budget` tokens. `progress` may raise. Raises RoundFailed.

    Which completions share a pack does not depend on how far an attempt before this one came, so neither do the scores' bits.
    """
    rows = {row for triple in triples for row in (triple.chosen, triple.rejected)}
    known = {row for row in rows if scores.is_others(row)}
    open_ = [triple for triple in triples if not {triple.chosen, triple.rejected} <= known]
    done = sum(row in scores for row in rows)
    scored = len(rows) - done
    unsaved = tokens = 0
    progress(done, len(rows))
    try:
        with torch.no_grad():
            for each in split(open_, budget):
                packed = pack(
                    row for t in each for row in (t.chosen, t.rejected) if row not in known
                )
                missing = sum(row not in scores for row in packed.rows)
                if not missing:
                    continue
                _take(scores, packed, packed.sums(log_probs(packed)))
                tokens += len(packed.tokens)
                done, unsaved = done + missing, unsaved + missing
                if unsaved >= SAVED_EVERY:
                    scores.save()
                    unsaved = 0
                progress(done, len(rows))
    finally:
        if unsaved:
            scores.save()
    return Pass(completions=len(rows), scored=scored, tokens=tokens)


def _take(scores: Scores, packed: Pack, sums: Tensor) -> None:
    if not sums.isfinite().all():
        raise RoundFailed(
            "loss_not_finite",
            "The reference scores a completion with a number that is not finite; "
            "its weights are broken, so choose another parent or base.",
        )
    for row, value in zip(packed.rows, sums.tolist(), strict=True):
        if row not in scores:
            scores.add(row, value)


def _read(path: Path) -> dict[str, float]:
    """Return a file's scores, none when it is torn or strange."""
    try:
        found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["log_probs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found
