"""A backup's folder: files, and a manifest written last that says what each of them must be."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pairloop.lib import files
from pairloop.lib.errors import Refused

MANIFEST = "manifest.json"
DUMP = "database.dump"
SCHEMA = 1
PIECE = 1 << 20

Say = Callable[[str], None]


class BackupUnusable(Refused):
    """This folder holds no backup that can be restored."""

    code = "backup_unusable"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one file must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. Its absence means that the backup was not finished."""

    schema: int
    pairloop: str
    made_at: str
    #: PostgreSQL's version as in "18.6".
    database: str
    #: Applied migrations, as in "annotate.0001_initial".
    migrations: list[str]
    has_bases: bool
    #: How many judgements, versions and rounds.
    contents: dict[str, int]
    #: What was not whole when the backup was made, a sentence each; it is not in the backup.
    damaged: list[str]
    #: By their path below the backup's folder.
    files: dict[str, Entry] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def units(self) -> dict[str, list[str]]:
        """Return the files of each folder that is put back whole; the database's dump is in none."""
        units: dict[str, list[str]] = {}
        for name in self.files:
            if name != DUMP:
                units.setdefault(unit_of(name), []).append(name)
        return units


def unit_of(name: str) -> str:
    """Return the folder that a file is put back with: a version, a base or a round."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[: 3 if parts[0] == "rounds" else 2])


def copy_hashed(source: Path, target: Path, *, mode: int = 0o600) -> Entry:
    """Copy a regular file to a new place, onto the disk, and return what was written.

    Raises FileNotFoundError for anything but a regular file.
    """
    digest, size = hashlib.sha256(), 0
    # Not followed: a link may lead out of the state folder.
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as reader:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(f"{source} is not a regular file.")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with target.open("xb") as writer:
            os.fchmod(writer.fileno(), mode)
            while piece := reader.read(PIECE):
                digest.update(piece)
                size += writer.write(piece)
            writer.flush()
            os.fsync(writer.fileno())
    return Entry(size=size, sha256=digest.hexdigest())


def folder_sha256(names: Iterable[tuple[str, str]]) -> str:
    """Return the hash of a folder out of its files' names and hashes, as models_registry.hashing does."""
    whole = hashlib.sha256()
    for name, sha256 in sorted(names):
        whole.update(f"{name}\0{sha256}\n".encode())
    return whole.hexdigest()


def manifest_write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, by rename; from then on the backup counts as finished."""
    files.write_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True))


def manifest_read(folder: Path) -> Manifest:
    """Return the manifest of a finished backup. Raises BackupUnusable."""
    if not folder.is_dir():
        raise BackupUnusable(f"There is no folder {folder}. Name the one that `backup` wrote.")
    found = files.read_json(folder / MANIFEST)
    if not found:
        raise BackupUnusable(
            f"{folder} holds no readable {MANIFEST}, so its backup was not finished. Use another one."
        )
    if found.get("schema") != SCHEMA:
        raise BackupUnusable(
            f"{folder} was made by another release of Pairloop ({found.get('pairloop')}), in a form that"
            " this one does not read. Restore it with that release, then upgrade."
        )
    try:
        return _manifest(found)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BackupUnusable(
            f"{folder}/{MANIFEST} is damaged ({type(error).__name__}). Use another backup."
        ) from error


def manifest_check(folder: Path, manifest: Manifest, *, say: Say) -> None:
    """Read every file and compare it with the manifest. Raises BackupUnusable."""
    say(f"checking {len(manifest.files)} files, {gigabytes(manifest.size)}")
    for name, entry in sorted(manifest.files.items()):
        path = folder / name
        if not stat.S_ISREG(_mode(path)):
            raise BackupUnusable(f"{path} is missing. Use another backup.")
        if path.stat().st_size != entry.size or files.sha256_of(path) != entry.sha256:
            raise BackupUnusable(f"{path} is not what was backed up. Use another backup.")


def gigabytes(size: int) -> str:
    """Say how much that is."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _manifest(found: dict[str, Any]) -> Manifest:
    """Return the manifest that JSON describes. Raises what a wrong one leads to."""
    entries = {_safe(name): Entry(**entry) for name, entry in found.pop("files").items()}
    if DUMP not in entries:
        raise LookupError(DUMP)
    return Manifest(**found, files=entries)


def _safe(name: str) -> str:
    """Return a path of a backup's file. Raises ValueError for one that may lead elsewhere."""
    known = re.fullmatch(r"(versions|bases|rounds)(/[A-Za-z0-9_-][A-Za-z0-9._-]*){2,4}", name)
    if name != DUMP and not known:
        raise ValueError(name)
    return name
