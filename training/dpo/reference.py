"""Log-probabilities under the reference: scored once, then read, by later epochs, attempts and rounds.

<scores>/<sha256 of the reference>/ holds a JSON file per round that scored something. A round reads all of
them and writes only its own, so that rounds need not wait for each other. Deleting any costs time only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from training.dpo import files, score
from training.dpo.data import Row, Triple
from training.dpo.failures import RoundFailed
from training.dpo.spec import Spec

#: A killed round scores at most so many rows again.
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

    def __getitem__(self, row: Row) -> float:
        """Return S0 of the row."""
        return self._known[row.key]

    def add(self, row: Row, value: float) -> None:
        """Take the score of one row; on disk after the next save."""
        self._known[row.key] = self._own[row.key] = value

    def save(self) -> None:
        """Write this round's own file."""
        files.write_json(self._path, {"log_probs": self._own})


def open_for(spec: Spec) -> Scores:
    """Open the store of this round's reference."""
    own = f"{spec.round.model}-{spec.round.number}"
    return Scores(spec.scores / spec.reference.sha256, own=own)


def fill(
    scores: Scores,
    *,
    reference: torch.nn.Module,
    triples: Iterable[Triple],
    progress: Callable[[int, int], None],
) -> int:
    """Score what the store lacks and return how many rows that were. `progress` may raise. Raises RoundFailed."""
    rows = list(
        dict.fromkeys(row for triple in triples for row in (triple.chosen, triple.rejected))
    )
    missing = [row for row in rows if row not in scores]
    stored = len(rows) - len(missing)
    progress(stored, len(rows))
    try:
        with torch.no_grad():
            for number, row in enumerate(missing, start=1):
                value = score.log_prob(reference, row).item()
                if not math.isfinite(value):
                    raise RoundFailed(
                        "loss_not_finite",
                        "The reference scores a completion with a number that is not finite; "
                        "its weights are broken, so choose another parent or base.",
                    )
                scores.add(row, value)
                if number % SAVED_EVERY == 0:
                    scores.save()
                progress(stored + number, len(rows))
    finally:
        if missing:
            scores.save()
    return len(missing)


def _read(path: Path) -> dict[str, float]:
    """Return a file's scores, none when it is torn or strange."""
    try:
        found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["log_probs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found
