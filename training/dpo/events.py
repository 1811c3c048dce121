"""events.jsonl: what the round's page follows. Light, since the first line precedes torch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from training.dpo.bar import Bar


class Events:
    """An append-only file of one JSON object a line, each out before the call returns."""

    def __init__(self, path: Path) -> None:
        """Open the file, dropping a last line that a full disk or a loss of power cut off."""
        whole = path.read_bytes() if path.exists() else b""
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole.rfind(b"\n") + 1)
        self._bar = Bar()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event."""
        line = json.dumps({"event": event, "at": round(time.time(), 3)} | fields, allow_nan=False)
        self._file.write(f"{line}\n".encode())

    def stage(self, stage: str, done: int, of: int) -> None:
        """Append how far a stage is."""
        self.write("stage", stage=stage, done=done, of=of)
        self._bar.show(stage, done, of)

    def step(self, step: int, of: int, **fields: Any) -> None:
        """Append what one optimizer step did."""
        self.write("step", step=step, of=of, **fields)
        self._bar.show("training", step, of)

    def close(self) -> None:
        """Close the file."""
        self._bar.close()
        self._file.close()
