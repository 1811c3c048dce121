"""events.jsonl: what the round's page follows. Standard library only, since the first line precedes torch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Events:
    """An append-only file of one JSON object a line, each out before the call returns."""

    def __init__(self, path: Path) -> None:
        """Open the file, dropping a last line that a full disk or a loss of power cut off."""
        whole = path.read_bytes() if path.exists() else b""
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole.rfind(b"\n") + 1)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event."""
        line = json.dumps({"event": event, "at": round(time.time(), 3)} | fields, allow_nan=False)
        self._file.write(f"{line}\n".encode())

    def stage(self, stage: str, done: int, of: int) -> None:
        """Append how far a stage is."""
        self.write("stage", stage=stage, done=done, of=of)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
