"""`manage.py restore DIR`: a backup into an installation that holds nothing yet."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader

from models_registry import actions as registry
from models_registry.models import ModelVersion
from pairloop.lib import files
from pairloop.lib.errors import Refused
from pairloop.up import archive, dumps
from pairloop.up.archive import Manifest, Say
from pairloop.up.backup import summary
from pairloop.up.supervisor import folder_held
from training import actions as training

WHY_LOST = "It was under way when the backup was made that this installation was restored from."


class RestoreRefused(Refused):
    """This backup cannot be restored here."""

    code = "restore_refused"


def restore(folder: Path, *, say: Say) -> Manifest:
    """Put a backup back, after every file of it was checked. Raises Refused, and then the database is empty.

    Files come first and the database last, in one transaction: whatever interrupts it, it can be repeated.
    """
    began = time.monotonic()
    manifest = archive.manifest_read(folder)
    archive.manifest_check(folder, manifest, say=say)
    try:
        with folder_held(settings.VAR, say=say), dumps.database_running():
            _target_check(manifest)
            _files_put(folder, manifest, say=say)
            say("restoring the database")
            dumps.load(folder / archive.DUMP)
            _bring_up_to_date(say)
            missing = _bases_missing()
    except OSError as error:
        raise RestoreRefused(
            f"{error.filename or settings.VAR} cannot be written: {error.strerror}. Correct that, and repeat."
        ) from error
    for line in (*manifest.damaged, *missing):
        say(f"not in the backup: {line}")
    say(
        f"{summary(manifest)}: restored in {time.monotonic() - began:.0f} s. Everybody logs in anew."
    )
    return manifest


def _target_check(manifest: Manifest) -> None:
    """Refuse whatever holds something, or could not hold this."""
    _emptiness_check()
    theirs, ours = manifest.database.partition(".")[0], dumps.server_version().partition(".")[0]
    if int(ours) < int(theirs):
        raise RestoreRefused(
            f"The backup is of PostgreSQL {theirs}, and this is PostgreSQL {ours}. Restore it into version"
            f" {theirs} or newer."
        )
    loader = MigrationLoader(connection)
    known = {f"{app}.{name}" for app, name in loader.disk_migrations or {}}
    if newer := sorted(set(manifest.migrations) - known):
        raise RestoreRefused(
            f"The backup was made by a newer Pairloop ({manifest.pairloop}, {newer[0]}). Upgrade this one"
            " first."
        )
    needed, free = manifest.size, shutil.disk_usage(settings.VAR).free
    if needed > free:
        raise RestoreRefused(
            f"The backup needs {archive.gigabytes(needed)}, and {archive.gigabytes(free)} are free on the"
            f" disk of {settings.VAR}. Make room first."
        )


def _emptiness_check() -> None:
    if not connection.introspection.table_names():
        return
    if settings.DATABASE_URL:
        remedy = "Name an empty database in PAIRLOOP_DATABASE_URL"
    else:
        remedy = f"Set PAIRLOOP_VAR to a new folder, or move {settings.VAR} away"
    raise RestoreRefused(
        f"There is a database here already, and a backup never goes over one. {remedy}, then repeat."
    )


# --- Files -------------------------------------------------------------------------------------------------


def _files_put(folder: Path, manifest: Manifest, *, say: Say) -> None:
    units = manifest.units()
    for number, (place, names) in enumerate(sorted(units.items()), start=1):
        _unit_put(folder, manifest, place, names)
        say(f"{number} of {len(units)}: {place}")


def _unit_put(folder: Path, manifest: Manifest, place: str, names: list[str]) -> None:
    """Put one folder in its place by one rename. Raises RestoreRefused when something else is there."""
    target = _target_of(place)
    if target.exists():
        if not _holds(target, place, manifest, names):
            raise RestoreRefused(
                f"{target} holds something else than the backup. Move it away, then repeat."
            )
        return
    is_kept = not place.startswith("rounds/")
    files.private_folder(target.parent)
    draft = target.with_name(f".restoring-{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    for name in names:
        entry = archive.copy_hashed(
            folder / name, draft / name.removeprefix(f"{place}/"), mode=0o444 if is_kept else 0o600
        )
        if entry != manifest.files[name]:
            raise RestoreRefused(f"{folder / name} changed while it was read. Repeat.")
    draft.rename(target)
    if place.startswith("versions/"):
        # As the store leaves them; not before, since a read-only folder cannot be renamed.
        target.chmod(0o555)


def _target_of(place: str) -> Path:
    kind, _, rest = place.partition("/")
    roots = {"versions": settings.VERSIONS, "bases": settings.BASES, "rounds": settings.ROUNDS}
    return Path(roots[kind]) / rest


def _holds(target: Path, place: str, manifest: Manifest, names: list[str]) -> bool:
    """Whether a folder has these files with these contents, say from a restore that was interrupted."""
    for name in names:
        path = target / name.removeprefix(f"{place}/")
        if not path.is_file() or files.sha256_of(path) != manifest.files[name].sha256:
            return False
    return True


# --- Database ----------------------------------------------------------------------------------------------


def _bring_up_to_date(say: Say) -> None:
    """Migrate what an older release left, and forget what was true of another machine only."""
    say("applying migrations")
    try:
        call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
    except DatabaseError as error:
        raise RestoreRefused(
            f"The database is restored, but could not be migrated: {error}"
        ) from error
    registry.engines_forget()
    training.attempts_abandon(why=WHY_LOST)


def _bases_missing() -> list[str]:
    bases = ModelVersion.objects.filter(kind=ModelVersion.Kind.BASE).select_related("model")
    return [
        f"the base of {base.model}. Put it at {path}; its source was {base.model.base_source}."
        for base in bases
        for path in [Path(settings.BASES) / base.artifact_path]
        if not path.is_dir()
    ]
