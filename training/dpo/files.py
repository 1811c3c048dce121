"""Files that are whole or not there; standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, fsync it and rename it."""
    draft = path.with_name(path.name + ".draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        # On a full disk the reason why the round failed must still fit.
        draft.unlink(missing_ok=True)
        raise
    _folder_sync(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write JSON that is equal for equal content."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write(path, f"{text}\n".encode())


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes its name, over an older one, when the block ends well."""
    draft = path.with_name(path.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)
    _folder_sync(path.parent)


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder_sync(path: Path) -> None:
    # A rename survives a loss of power only when the folder is synced too.
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
