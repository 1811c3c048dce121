"""The content-addressed store of adapters: what may enter it, how it enters, whether it is still whole."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from models_registry import canary, hashing
from models_registry.models import LORA_RANKS, ModelVersion
from pairloop.lib import files
from pairloop.lib.errors import Refused

logger = logging.getLogger(__name__)

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
#: An adapter is these files and no others.
FILES = (WEIGHTS, CONFIG, canary.FILE, CARD)
#: Most bytes of the two files that are read whole, and of the weights' header.
SMALL = 2**20
#: Settings of peft that vLLM refuses, ignores or reads otherwise than peft does; each must be unset.
UNSET = (
    "use_dora", "use_rslora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "layer_replication",
    "alora_invocation_tokens", "rank_pattern", "alpha_pattern", "target_parameters", "trainable_token_indices",
    "auto_mapping", "exclude_modules", "layers_to_transform", "arrow_config", "corda_config", "kasa_config",
    "monteclora_config", "velora_config", "fan_in_fan_out",
)  # fmt: skip
DTYPES = {"F32": 4, "F16": 2, "BF16": 2}


class ArtifactRefused(Refused):
    """This folder is not a version's artifact."""

    code = "artifact_refused"


class ArtifactMissing(ArtifactRefused):
    """There is no folder to store."""

    code = "artifact_missing"


class ArtifactFilesWrong(ArtifactRefused):
    """The folder holds other files than an adapter has."""

    code = "artifact_files_wrong"


class AdapterUnsupported(ArtifactRefused):
    """The adapter's settings are not what vLLM loads."""

    code = "adapter_unsupported"


class WeightsUnreadable(ArtifactRefused):
    """The adapter's weights cannot be read."""

    code = "weights_unreadable"


@dataclass(frozen=True, slots=True)
class Artifact:
    """An adapter in the store."""

    #: Over names and contents of all files; the folder's name.
    sha256: str
    path: Path
    size_bytes: int


def path_of(version: ModelVersion) -> Path:
    """Return the absolute folder of an adapter."""
    return Path(settings.VERSIONS).absolute() / version.artifact_path


def artifact_store(staging: Path) -> Artifact:
    """Check a folder, move it to the place of its hash, read-only, and return it. Raises ArtifactRefused.

    One rename puts it there, so the place holds a whole artifact or nothing. Before it, the hash is written
    beside the staging folder: asked again after a crash, it returns what was stored.
    """
    note = staging.with_name(f"{staging.name}.stored")
    if not staging.exists():
        return _stored_before(staging, note)
    _check(staging)
    sha256 = hashing.folder_sha256(staging)
    artifact = Artifact(
        sha256=sha256,
        path=Path(settings.VERSIONS).absolute() / sha256,
        size_bytes=sum(path.stat().st_size for path in staging.iterdir()),
    )
    artifact.path.parent.mkdir(parents=True, exist_ok=True)
    if _holds(artifact.path, sha256):
        artifact.path.chmod(0o555)
        shutil.rmtree(staging)
        return artifact
    _set_aside(artifact.path)
    for path in staging.iterdir():
        path.chmod(0o444)
        _sync(path)
    _sync(staging)
    files.write_atomic(note, sha256)
    _move(staging, artifact)
    return artifact


def artifact_is_whole(version: ModelVersion) -> bool:
    """Whether every byte of a version's artifact is what was stored. Reads it all.

    Raises OSError when nobody can tell: the store is not there, or the disk does not answer.
    """
    store = Path(settings.VERSIONS)
    if not store.is_dir():
        raise FileNotFoundError(f"The store {store} is not there.")
    path = path_of(version)
    try:
        _check_files(path)
        return hashing.folder_sha256(path) == version.sha256
    except (ArtifactRefused, FileNotFoundError, NotADirectoryError):
        return False


def _stored_before(staging: Path, note: Path) -> Artifact:
    """Return the artifact that this folder became earlier. Raises ArtifactMissing."""
    sha256 = note.read_text(encoding="utf-8") if note.is_file() else ""
    path = Path(settings.VERSIONS).absolute() / sha256
    if not sha256 or not _holds(path, sha256):
        raise ArtifactMissing(f"There is no folder {staging} to store.")
    path.chmod(0o555)
    size = sum(file.stat().st_size for file in path.iterdir())
    return Artifact(sha256=sha256, path=path, size_bytes=size)


def _move(staging: Path, artifact: Artifact) -> None:
    try:
        staging.rename(artifact.path)
    except OSError:
        # Somebody stored the same just now; a folder in the way cannot be replaced.
        if not _holds(artifact.path, artifact.sha256):
            raise
        shutil.rmtree(staging)
    # Not before: a read-only folder cannot be moved to another parent.
    artifact.path.chmod(0o555)
    _sync(artifact.path.parent)


def _set_aside(path: Path) -> None:
    """Make room where damaged files lie; they are kept for whoever wants to know what happened."""
    if path.exists():
        aside = path.with_name(f".damaged-{path.name}-{secrets.token_hex(4)}")
        path.rename(aside)
        logger.error("the artifact %s was damaged; it is kept in %s", path.name, aside)


def _holds(path: Path, sha256: str) -> bool:
    """Whether a folder has exactly an artifact's files, with this hash."""
    try:
        _check_files(path)
        return hashing.folder_sha256(path) == sha256
    except (ArtifactRefused, OSError):
        return False


def _check(folder: Path) -> None:
    """Refuse whatever vLLM would not load as it was trained. Raises ArtifactRefused."""
    _check_files(folder)
    config = _json(folder / CONFIG)
    _check_config(config)
    _check_weights(folder / WEIGHTS, rank=int(config["r"]))
    try:
        canary.rows_read(folder)
    except ValueError as error:
        raise ArtifactRefused(str(error)) from error


def _check_files(folder: Path) -> None:
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ArtifactFilesWrong(f"{folder} is not a folder.")
    found = {path.name: path.lstat().st_mode for path in folder.iterdir()}
    if missing := sorted(set(FILES) - set(found)):
        raise ArtifactFilesWrong(f"The artifact lacks {', '.join(missing)}.")
    if others := sorted(set(found) - set(FILES)):
        # Among them pickles, which can run code when loaded, and which vLLM loads if it finds them.
        raise ArtifactFilesWrong(f"An artifact does not hold {', '.join(others)}.")
    if odd := sorted(name for name, mode in found.items() if not stat.S_ISREG(mode)):
        raise ArtifactFilesWrong(f"These are not regular files: {', '.join(odd)}.")


def _check_config(config: dict[str, Any]) -> None:
    """Raise AdapterUnsupported unless vLLM loads an adapter with these settings."""
    surprises = [f"{key} is set" for key in UNSET if config.get(key)]
    rank, alpha = config.get("r"), config.get("lora_alpha", 0)
    if config.get("peft_type") != "LORA":
        surprises.append("peft_type is not LORA")
    # type(): True is an int, too.
    if type(rank) is not int or rank not in LORA_RANKS:
        surprises.append(f"r is not among {', '.join(map(str, LORA_RANKS))}")
    if type(alpha) not in (int, float) or not math.isfinite(alpha) or alpha <= 0:
        surprises.append("lora_alpha is not a positive number")
    if config.get("bias", "none") != "none":
        surprises.append("bias is not none")
    if not isinstance(config.get("init_lora_weights", True), bool):
        surprises.append("init_lora_weights is neither true nor false")
    if surprises:
        raise AdapterUnsupported(f"vLLM does not load this adapter: {'; '.join(surprises)}.")


def _check_weights(path: Path, *, rank: int) -> None:
    """Read the header of a safetensors file and refuse what is not LoRA of this rank, whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= SMALL else b""
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        ends = [_tensor_end(name, tensor, rank=rank) for name, tensor in tensors.items()]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise WeightsUnreadable(f"{path.name} has no readable header.") from error
    if not ends or 8 + length + max(ends) != path.stat().st_size:
        raise WeightsUnreadable(f"{path.name} is not as long as its header says.")


def _tensor_end(name: str, tensor: dict[str, Any], *, rank: int) -> int:
    """Return where a tensor's bytes end. Raises WeightsUnreadable for one that is not of a LoRA."""
    begin, end = tensor["data_offsets"]
    size = math.prod(tensor["shape"]) * DTYPES.get(tensor["dtype"], 0)
    side = 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
    if side is None or len(tensor["shape"]) != 2 or tensor["shape"][side] != rank:
        raise WeightsUnreadable(f"{WEIGHTS}: {name[:120]} is no LoRA matrix of rank {rank}.")
    if begin < 0 or not size or end - begin != size:
        raise WeightsUnreadable(f"{WEIGHTS}: {name[:120]} has an unknown type or size.")
    return int(end)


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a small file. Raises AdapterUnsupported."""
    try:
        found = (
            json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < SMALL else None
        )
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AdapterUnsupported(f"{path.name} is not a JSON object of less than 1 MiB.")
    return found


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
