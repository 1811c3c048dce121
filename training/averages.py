"""A version out of several: the weighted mean of what their adapters add to the base.

The mean is computed by a program of its own in `.venv-ml`, since torch is not here.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.conf import settings
from django.db import transaction

from models_registry import actions as registry
from models_registry import queries as registered
from models_registry import store
from models_registry import tasks as registry_tasks
from models_registry.models import ModelVersion
from pairloop.lib import jobs, processes
from pairloop.lib.errors import Refused


class AverageRefused(Refused):
    """These versions cannot be averaged."""

    code = "average_refused"


def versions_average(
    *, versions: Sequence[ModelVersion], weights: Sequence[float], reason: str, now: datetime
) -> ModelVersion:
    """Register the mean of versions of one model as its next version, whose parent is the first of them.

    Only the weights' proportion counts. Takes as long as loading the base. Raises Refused, and then nothing
    was registered.
    """
    reason = reason.strip()
    _check(versions, weights, reason)
    shares = [weight / sum(weights) for weight in weights]
    # In the store's file system: the artifact gets to its place by a rename.
    with TemporaryDirectory(prefix=".average-", dir=Path(settings.VERSIONS).absolute()) as place:
        staging = Path(place) / "version"
        lost = _compute(staging, versions, shares)
        card = (staging / store.CARD).read_text(encoding="utf-8")
        artifact = store.artifact_store(staging)
    return _register(
        versions,
        artifact=artifact,
        average={
            "versions": [
                {"number": version.number, "sha256": version.sha256, "share": share}
                for version, share in zip(versions, shares, strict=True)
            ],
            "lost": lost,
            "reason": reason,
        },
        card=card,
        now=now,
    )


@transaction.atomic
def _register(
    versions: Sequence[ModelVersion],
    *,
    artifact: store.Artifact,
    average: dict[str, Any],
    card: str,
    now: datetime,
) -> ModelVersion:
    parent = versions[0]
    version = registry.version_register(
        model=parent.model,
        parent=parent,
        artifact=artifact,
        metrics={"average": average},
        card=card,
        now=now,
        reason=f"The mean of {registered.average_said(average)}. {average['reason']}",
    )
    jobs.defer_once(registry_tasks.engine_reconcile)
    return version


def _check(versions: Sequence[ModelVersion], weights: Sequence[float], reason: str) -> None:
    """Refuse what has no mean, before anything is computed."""
    if not reason:
        raise AverageRefused("Say why: the reason stays with the version.")
    if len({version.pk for version in versions}) < max(len(versions), 2):
        raise AverageRefused("Name two versions or more, and none twice.")
    if len(weights) != len(versions) or not all(0 < weight < float("inf") for weight in weights):
        raise AverageRefused(f"Give {len(versions)} weights above 0, one for each version.")
    for version in versions:
        if version.kind != ModelVersion.Kind.ADAPTER:
            raise AverageRefused(f"{version.label} has no adapter. Name versions that rounds made.")
        if version.state in {ModelVersion.State.CORRUPT, ModelVersion.State.RETIRED}:
            raise AverageRefused(f"{version.label} is {version.state}. Leave it out.")
        if not _is_whole(version):
            raise AverageRefused(
                f"The files of {version.label} are not what was registered. Leave it out, or restore a backup."
            )


def _is_whole(version: ModelVersion) -> bool:
    try:
        return store.artifact_is_whole(version)
    except OSError as error:
        raise AverageRefused(
            f"The files of {version.label} cannot be read: {error.strerror or error}."
        ) from error


def _compute(staging: Path, versions: Sequence[ModelVersion], shares: Sequence[float]) -> float:
    """Write the mean's folder and return which share of it the rank has cost. Raises AverageRefused."""
    base = registered.version_numbered(model=versions[0].model, number=0)
    command = [
        str(settings.ML_PYTHON), "-m", "training.dpo.average", str(staging),
        *(str(store.path_of(version)) for version in versions),
        "--base", str(Path(settings.BASES).absolute() / base.artifact_path),
        "--weights", ",".join(repr(share) for share in shares),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            cwd=settings.BASE_DIR,
            env=processes.closed()
            | {
                "HOME": str(staging.parent),
                "OMP_NUM_THREADS": str(settings.TRAINER_THREADS),
                "HF_HUB_OFFLINE": "1",
                "DO_NOT_TRACK": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise AverageRefused(f"{settings.ML_PYTHON} does not start: {error.strerror}.") from error
    if done.returncode:
        raise AverageRefused(_last_words(done))
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told["lost"]


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Return the program's own sentence, or how it died."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 1 and lines and lines[-1].startswith("These adapters"):
        return lines[-1]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    last = f", last line: {lines[-1][:300]}" if lines else ""
    return f"The mean could not be computed ({how}{last}). Nothing was registered."
