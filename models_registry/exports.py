"""Versions for use elsewhere: an adapter as PEFT loads it, or the whole model with the adapter merged in."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings

from models_registry import bases, hashing, queries, store
from models_registry.models import ModelVersion
from pairloop.lib.errors import Refused

#: Bytes of a float32 parameter, and how much of the disk stays free.
FLOAT, SPARE = 4, 1 << 28
#: Files that an export may leave in a folder; one with others is not replaced.
OURS = (
    store.WEIGHTS, store.CONFIG, store.CARD, "config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", "tokenizer*", "chat_template.jinja", "generation_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "LICENSE*",
)  # fmt: skip
PIECE = 1 << 20


class ExportRefused(Refused):
    """This version cannot be exported."""

    code = "export_refused"


class NoAdapter(ExportRefused):
    """v0 is the base itself and has no adapter. Export it merged: that is a copy of the base."""

    code = "no_adapter"


class ArtifactDamaged(ExportRefused):
    """The version's files are not what was registered, so they are not handed out."""

    code = "artifact_damaged"


class TargetTaken(ExportRefused):
    """The folder holds something already."""

    code = "target_taken"


class ExportFailed(ExportRefused):
    """The export did not finish; nothing of it is left."""

    code = "export_failed"


def adapter_export(*, version: ModelVersion, card: str, target: Path, force: bool) -> Path:
    """Write a PEFT folder with its card; return it. Raises ExportRefused, and then nothing is there."""
    check_adapter(version)
    with _folder(target, force=force, needed=version.size_bytes) as draft:
        source = store.path_of(version)
        shutil.copyfile(source / store.WEIGHTS, draft / store.WEIGHTS)
        (draft / store.CONFIG).write_text(_config(version), encoding="utf-8")
        (draft / store.CARD).write_text(card, encoding="utf-8")
    return target


def merged_export(*, version: ModelVersion, card: str, target: Path, force: bool) -> Path:
    """Write the whole model with its card, whatever it takes in minutes; return the folder.

    A base is copied as it is. Raises ExportRefused, and then nothing is there.
    """
    base = queries.version_numbered(model=version.model, number=0)
    folder = _base_folder(base)
    if not version.is_base:
        check_adapter(version)
    needed = max(base.size_bytes, version.model.parameters * FLOAT)
    with _folder(target, force=force, needed=needed) as draft:
        if version.is_base:
            shutil.copytree(folder, draft, copy_function=shutil.copyfile, dirs_exist_ok=True)
        else:
            _merge(folder, store.path_of(version), draft)
        (draft / store.CARD).write_text(card, encoding="utf-8")
    return target


def adapter_archive(*, version: ModelVersion, card: str) -> tuple[str, Iterator[bytes]]:
    """Return a file name and the pieces of a zip with the PEFT folder. Raises ExportRefused at once."""
    check_adapter(version)
    name = f"{version.model.slug}-{version.label}"
    small = {store.CONFIG: _config(version), store.CARD: card}
    return f"{name}.zip", _zipped(name, store.path_of(version) / store.WEIGHTS, small)


def check_adapter(version: ModelVersion) -> None:
    """Read all of an adapter's files once. Raises ExportRefused unless they are what was registered."""
    if version.kind != ModelVersion.Kind.ADAPTER:
        raise NoAdapter
    try:
        is_whole = store.artifact_is_whole(version)
    except OSError as error:
        raise ExportFailed(
            f"The files of {version} cannot be read: {error.strerror or error}. Look at the disk, then try again."
        ) from error
    if not is_whole:
        raise ArtifactDamaged(
            f"The files of {version} are not what was registered, so they are not handed out. Restore them from a"
            " backup, or export another version."
        )


def _base_folder(base: ModelVersion) -> Path:
    """Return the folder of a base, checked. Raises ExportRefused."""
    folder = Path(settings.BASES).absolute() / base.artifact_path
    try:
        is_whole = hashing.folder_sha256(folder) == base.sha256
    except OSError as error:
        raise ExportFailed(
            f"The files of {base} cannot be read: {error.strerror or error}."
        ) from error
    if not is_whole:
        raise ArtifactDamaged(
            f"The files of {base} are not what was registered. Register the base anew, or restore a backup."
        )
    return folder


def _config(version: ModelVersion) -> str:
    """Return adapter_config.json, with the base's name: in the store it has none, so that hashes agree."""
    found: dict[str, Any] = json.loads(
        (store.path_of(version) / store.CONFIG).read_text(encoding="utf-8")
    )
    found["base_model_name_or_path"] = bases.public_name(version.model.base_source)
    return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _merge(base: Path, adapter: Path, target: Path) -> None:
    """Run the merging program in `.venv-ml`. Raises ExportFailed."""
    python = Path(settings.ML_PYTHON)
    if not python.exists():
        raise ExportFailed(
            "The model environment is missing, and only it can merge. Run `python3 -m pairloop.up.environments ml`"
            " first, or export the adapter without --merged."
        )
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [str(python), "-m", "models_registry.convert.merge", str(base), str(adapter), str(target)],
        cwd=settings.BASE_DIR,
        env=os.environ | quiet,  # noqa: TID251
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ExportFailed(
            "The adapter could not be merged, which needs memory and disk for the whole model in 32 bits: "
            f"{_last_words(done)}."
        )


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Say how a program ended, with the last thing it said."""
    how = "it was killed" if done.returncode < 0 else f"exit code {done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"{how}; {lines[-1][:300].rstrip('.')}" if lines else how


@contextmanager
def _folder(target: Path, *, force: bool, needed: int) -> Iterator[Path]:
    """Yield a folder that becomes `target` by rename at the end, or is gone. Raises ExportRefused."""
    # Through links: a rename would replace the link, not what it leads to.
    place = target.resolve()
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        _check_free(place, force=force)
        place.parent.mkdir(parents=True, exist_ok=True)
        _check_room(place.parent, needed)
        draft.mkdir()
        yield draft
        for path in draft.iterdir():
            # Whoever may read the folder may read all of it; some programs write private files.
            path.chmod(0o644)
        _swap(draft, place)
    except OSError as error:
        raise ExportFailed(_said(error, place)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_free(place: Path, *, force: bool) -> None:
    """Raise TargetTaken for a folder that holds anything; with `force`, for what no export left there."""
    if not place.exists():
        return
    if not place.is_dir():
        raise TargetTaken(f"{place} is a file. Name a folder that is empty or not there yet.")
    found = sorted(place.iterdir())
    others = [
        path.name
        for path in found
        if not path.is_file() or not any(path.match(one) for one in OURS)
    ]
    if found and not force:
        raise TargetTaken(
            f"{place} is not empty. Name another folder, or add --force to replace an earlier export."
        )
    if others:
        raise TargetTaken(
            f"{place} holds {others[0]}, which no export left there, so it is not replaced. Name another folder."
        )


def _check_room(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed + SPARE:
        raise ExportFailed(
            f"The export needs {needed / 1e9:.1f} GB and some to spare, but only {free / 1e9:.1f} GB are free in"
            f" {parent}. Make room, or name a folder on another disk."
        )


def _swap(draft: Path, place: Path) -> None:
    """Put the finished folder into its place; what an earlier export left there goes last."""
    earlier = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    if place.exists():
        place.rename(earlier)
    try:
        draft.rename(place)
    except OSError:
        if earlier.exists():
            earlier.rename(place)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _said(error: OSError, place: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"The disk of {place} is full. Make room, or name a folder on another disk; nothing was left there."
    return f"{place} cannot be written: {error.strerror or error}. Name another folder."


class _Sink(io.RawIOBase):
    """A file that can only be written on, and gives away what was written."""

    def __init__(self) -> None:
        """Begin empty."""
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Keep a copy."""
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def _zipped(folder: str, weights: Path, small: dict[str, str]) -> Iterator[bytes]:
    """Yield a zip that is nowhere as a whole. Weights do not compress, so nothing is."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, text in small.items():
            archive.writestr(_entry(f"{folder}/{name}"), text)
        with (
            weights.open("rb") as file,
            archive.open(_entry(f"{folder}/{weights.name}"), "w", force_zip64=True) as entry,
        ):
            read: Callable[[], bytes] = lambda: file.read(PIECE)  # noqa: E731
            for piece in iter(read, b""):
                entry.write(piece)
                yield sink.taken()
    yield sink.taken()


def _entry(name: str) -> zipfile.ZipInfo:
    """Name a file of the zip; without a time, so that the same version gives the same bytes."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    return entry
