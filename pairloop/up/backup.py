"""`manage.py backup DIR`: the database at one moment, and every file that it refers to.

No secret is in a backup: not Django's key, whose loss ends reset links and nothing else, no sessions, and
not the database's passwords. What people are known by (password hashes, digests of tokens) is.
"""

from __future__ import annotations

import errno
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from annotate.models import Judgement
from models_registry.models import ModelVersion
from pairloop.lib import files
from pairloop.lib.errors import Refused
from pairloop.up import archive, dumps, postgres
from pairloop.up.archive import Entry, Manifest, Say
from training.models import Round, Snapshot

#: What tells of an attempt at a round. Checkpoints are left out: a restored round begins anew.
ATTEMPT_FILES = ("run.json", "events.jsonl", "log.txt", "eval.json", "result.json")


class BackupRefused(Refused):
    """This backup cannot be made."""

    code = "backup_refused"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder, or some files of one, that a row of the database refers to."""

    #: For people.
    title: str
    #: Below the backup's folder.
    place: str
    source: Path
    #: Paths below `source`; None: all that is there.
    names: tuple[str, ...] | None
    #: Of the whole folder; for a round, of its snapshot.
    sha256: str


@dataclass(slots=True)
class Found:
    """What the database holds at the moment of the dump."""

    version: str
    migrations: list[str]
    contents: dict[str, int]
    artifacts: list[Artifact]
    damaged: list[str] = field(default_factory=list)


def backup(folder: Path, *, with_bases: bool, say: Say) -> Manifest:
    """Write a backup into a new or empty folder; a manifest comes last, or nothing stays. Raises Refused."""
    _folder_claim(folder)
    began = time.monotonic()
    with _disk_watched(folder), _database(), _emptied_unless_finished(folder):
        found = _dump(folder, with_bases=with_bases, say=say)
        entries = _artifacts_copy(folder, found, say=say)
        dump = folder / archive.DUMP
        entries[archive.DUMP] = Entry(dump.stat().st_size, files.sha256_of(dump))
        manifest = Manifest(
            schema=archive.SCHEMA,
            pairloop=release(),
            made_at=timezone.now().isoformat(timespec="seconds"),
            database=found.version,
            migrations=found.migrations,
            has_bases=with_bases,
            contents=found.contents,
            damaged=found.damaged,
            files=entries,
        )
        archive.manifest_write(folder, manifest)
    took = time.monotonic() - began
    say(f"{summary(manifest)}: {archive.gigabytes(manifest.size)} in {took:.0f} s")
    return manifest


def summary(manifest: Manifest) -> str:
    """Say what a backup holds."""
    return ", ".join(f"{count:,} {name}" for name, count in manifest.contents.items())


def release() -> str:
    """Return Pairloop's own version."""
    text = (Path(settings.BASE_DIR) / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def _folder_claim(folder: Path) -> None:
    """Make the folder, for its owner only. Raises BackupRefused unless it is empty."""
    try:
        files.private_folder(folder)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise BackupRefused(
            f"{folder} cannot be written: {error.strerror}. Choose another folder."
        ) from None
    if is_empty:
        return
    if (folder / archive.DUMP).exists() and not (folder / archive.MANIFEST).exists():
        raise BackupRefused(
            f"{folder} holds a backup that was not finished. Delete it, or choose another folder."
        )
    raise BackupRefused(f"{folder} is not empty. Choose a new folder, one for each backup.")


@contextmanager
def _database() -> Iterator[None]:
    cluster = postgres.Cluster.of(settings.VAR)
    if not settings.DATABASE_URL and not cluster.data.exists():
        raise BackupRefused(
            f"There is no database in {settings.VAR} to back up. Set PAIRLOOP_VAR to the state folder that"
            " is meant."
        )
    with dumps.database_running():
        yield


@contextmanager
def _disk_watched(folder: Path) -> Iterator[None]:
    """Say in a sentence what the disk says in a number."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise BackupRefused(
                f"The disk of {folder} is full. Make room, or choose a folder on another disk."
            ) from error
        raise BackupRefused(
            f"{error.filename or folder} cannot be used: {error.strerror}. Correct that, and repeat."
        ) from error


@contextmanager
def _emptied_unless_finished(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def _dump(folder: Path, *, with_bases: bool, say: Say) -> Found:
    """Dump the database, and return what it refers to at that very moment."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT pg_export_snapshot(), pg_database_size(current_database())")
        snapshot, size = cursor.fetchone()
        try:
            found = _look(with_bases=with_bases)
        except DatabaseError as error:
            raise BackupRefused(
                "The database is not as this release expects it. Run `manage.py migrate` first."
            ) from error
        _room_check(folder, found)
        say(f"dumping the database, {archive.gigabytes(size)} before compression")
        dumps.dump(folder / archive.DUMP, snapshot=snapshot)
    return found


def _look(*, with_bases: bool) -> Found:
    applied = MigrationRecorder(connection).applied_migrations()
    return Found(
        version=dumps.server_version(),
        migrations=sorted(f"{app}.{name}" for app, name in applied),
        contents={
            "judgements": Judgement.objects.count(),
            "versions": ModelVersion.objects.count(),
            "rounds": Round.objects.count(),
        },
        artifacts=[*_versions(with_bases=with_bases), *_rounds()],
    )


def _versions(*, with_bases: bool) -> list[Artifact]:
    """Return the folders of all versions, once each: two may have the same content."""
    by_place = {}
    for version in ModelVersion.objects.select_related("model").order_by("pk"):
        if version.is_base and not with_bases:
            continue
        name, store = (
            ("bases", settings.BASES) if version.is_base else ("versions", settings.VERSIONS)
        )
        place = f"{name}/{version.artifact_path}"
        source = Path(store) / version.artifact_path
        by_place[place] = Artifact(str(version), place, source, None, version.sha256)
    return list(by_place.values())


def _rounds() -> list[Artifact]:
    return [
        Artifact(
            title=f"{snapshot.model}'s {snapshot}",
            place=f"rounds/{snapshot.path}",
            source=source,
            names=tuple(_names_of_round(source)),
            sha256=snapshot.sha256,
        )
        for snapshot in Snapshot.objects.select_related("model").order_by("pk")
        for source in [Path(settings.ROUNDS) / snapshot.path]
    ]


def _names_of_round(folder: Path) -> Iterator[str]:
    yield from ("snapshot.jsonl", "holdout.jsonl")
    for attempt in sorted(folder.glob("attempt-*")):
        yield from (
            f"{attempt.name}/{name}" for name in ATTEMPT_FILES if (attempt / name).is_file()
        )


def _room_check(folder: Path, found: Found) -> None:
    sizes = (
        path.stat().st_size
        for artifact in found.artifacts
        for path in (artifact.source / name for name in _names(artifact))
        if path.is_file()
    )
    needed, free = sum(sizes), shutil.disk_usage(folder).free
    if needed > free:
        raise BackupRefused(
            f"The backup needs more than {archive.gigabytes(needed)}, and {archive.gigabytes(free)} are"
            f" free on the disk of {folder}. Make room, or choose a folder on another disk."
        )


def _names(artifact: Artifact) -> list[str]:
    if artifact.names is not None:
        return list(artifact.names)
    try:
        return sorted(path.name for path in artifact.source.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _artifacts_copy(folder: Path, found: Found, *, say: Say) -> dict[str, Entry]:
    """Copy what is whole; note what is not, and go on: one bad file must not cost all the others."""
    entries: dict[str, Entry] = {}
    for number, artifact in enumerate(found.artifacts, start=1):
        copied = _artifact_copy(folder, artifact)
        if copied is None:
            found.damaged.append(f"{artifact.title} is damaged or missing in {artifact.source}.")
            shutil.rmtree(folder / artifact.place, ignore_errors=True)
            continue
        entries |= copied
        size = archive.gigabytes(sum(entry.size for entry in copied.values()))
        say(f"{number} of {len(found.artifacts)}: {artifact.title}, {size}")
    return entries


def _artifact_copy(folder: Path, artifact: Artifact) -> dict[str, Entry] | None:
    """Return what was copied; None when it is not what the database says it is."""
    try:
        copied = {
            name: archive.copy_hashed(artifact.source / name, folder / artifact.place / name)
            for name in _names(artifact)
        }
    except OSError as error:
        # A link that is not followed counts as missing; a full disk is another matter.
        if error.errno not in {None, errno.ENOENT, errno.ELOOP, errno.ENOTDIR}:
            raise
        return None
    if artifact.names is None:
        found = archive.folder_sha256((name, entry.sha256) for name, entry in copied.items())
    else:
        found = copied["snapshot.jsonl"].sha256
    if found != artifact.sha256:
        return None
    return {f"{artifact.place}/{name}": entry for name, entry in copied.items()}
