"""One hash for a folder; standard library only, since both environments need it."""

from __future__ import annotations

import fnmatch
import hashlib
from pathlib import Path


def folder_sha256(folder: Path, names: tuple[str, ...] = ("*",)) -> str:
    """Return one hex SHA-256 over names and contents of the matching files, sorted by name."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if any(fnmatch.fnmatch(path.name, name) for name in names):
            with path.open("rb") as file:
                whole.update(
                    f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
                )
    return whole.hexdigest()
