"""Files that other processes read: written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def private_folder(path: Path) -> Path:
    """Create a folder that only its owner may enter (0700); leave its parents' modes alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    return path


def write_atomic(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file beside its place and rename it there, so a reader never sees half of it."""
    with _draft(path, text, mode=mode) as draft:
        draft.replace(path)


@contextmanager
def _draft(path: Path, text: str, *, mode: int) -> Iterator[Path]:
    """Write the text to a file beside `path`; nothing is left of it but what it became."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            # The umask has its own idea of the mode.
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one when there is none (yet)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def secret(path: Path) -> str:
    """Return the secret kept in a file (0600), making a random one of 64 characters the first time."""
    private_folder(path.parent)
    if not path.exists():
        with _draft(path, secrets.token_urlsafe(48), mode=0o600) as draft:
            try:
                # A rename would replace the one that another process made since we looked.
                path.hardlink_to(draft)
            except FileExistsError:
                pass
    return path.read_text(encoding="utf-8").strip()


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
