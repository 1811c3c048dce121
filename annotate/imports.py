"""Preference pairs from a file: kept as it came, then stored batch by batch, each whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from annotate import preferences, prompts, queries, reading, tasks
from annotate.models import Completion, Import, ImportedPreference, Pair, Prompt, Split
from annotate.preferences import PreferenceLine
from annotate.reading import Batch, FileUnreadable
from models_registry.models import RegisteredModel
from pairloop.lib import files, jobs
from pairloop.lib.errors import Refused

logger = logging.getLogger(__name__)

#: Rejected lines that the report names; the others are counted.
MOST_REJECTED = 1000


class FileTooLarge(Refused):
    """The file is too large."""

    code = "file_too_large"


class ImportOvertaken(Refused):
    """Somebody else goes on with this import."""

    code = "import_overtaken"


def import_start(
    *, model: RegisteredModel, by: User | None, filename: str, pieces: Iterable[bytes]
) -> Import:
    """Keep a file and queue its import; row and job appear together. Raises FileTooLarge, FileUnreadable.

    The same file while it is still on its way in, as after a double click, is the same import.
    """
    path = files.private_folder(Path(settings.IMPORTS)) / uuid.uuid4().hex
    try:
        total, sha256 = _keep(path, pieces)
        is_parquet = reading.is_parquet(path)
        with transaction.atomic():
            jobs.in_turn(_turn(model.pk))
            same = Import.objects.filter(model=model, sha256=sha256, state__in=Import.OPEN).first()
            if same:
                path.unlink()
                return same
            started = Import.objects.create(
                model=model,
                started_by=by,
                filename=_name(filename),
                format=Import.Format.PARQUET if is_parquet else Import.Format.JSONL,
                sha256=sha256,
                path=path.name,
                total=0 if is_parquet else total,
            )
            tasks.import_defer(started.pk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return started


def _keep(path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
    """Write a file that only we may read; return its length and hash."""
    length, digest = 0, hashlib.sha256()
    path.touch(mode=0o600, exist_ok=False)
    with path.open("wb") as file:
        for piece in pieces:
            length += len(piece)
            if length > settings.IMPORT_MIB * 1024**2:
                raise FileTooLarge(
                    f"A file may have at most {settings.IMPORT_MIB} MiB (PAIRLOOP_IMPORT_MIB). Split it."
                )
            digest.update(piece)
            file.write(piece)
    return length, digest.hexdigest()


def _name(filename: str) -> str:
    """Return what a file is called as far as it can be shown and stored."""
    shown = "".join(
        letter for letter in filename if letter.isprintable() and prompts.is_text(letter)
    )
    return Path(shown).name[-200:] or "unnamed"


def _turn(model_id: int) -> str:
    return f"imports-of-{model_id}"


def import_run(*, import_id: int, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Store what is left of an import's file, unless it is over or somebody else is at it.

    Killed in the middle, it goes on after the last whole batch.
    """
    with jobs.alone(queries.import_lock(import_id)) as is_alone:
        running = Import.objects.filter(pk=import_id, state__in=Import.OPEN).first()
        if not is_alone or not running:
            return
        try:
            for batch in _batches(running):
                _store(running, batch)
                if should_stop():
                    return
        except (FileUnreadable, FileNotFoundError) as error:
            _end(running, failure=_sentence(error))
        except ImportOvertaken:
            logger.warning("%s is overtaken", running)
        else:
            _end(running)


def imports_sweep() -> None:
    """Queue the imports that a dead worker has left."""
    for import_id in queries.imports_abandoned():
        tasks.import_defer(import_id)


def _batches(running: Import) -> Iterator[Batch]:
    """Begin, or go on where the last whole batch ended."""
    path = Path(settings.IMPORTS) / running.path
    if running.format == Import.Format.PARQUET:
        running.total = reading.parquet_rows(path)
        found = reading.parquet_batches(path, done=running.done)
    else:
        found = reading.jsonl_batches(path, done=running.done, last=running.lines)
    Import.objects.filter(pk=running.pk).update(total=running.total, state=Import.State.RUNNING)
    return found


def _sentence(error: FileUnreadable | FileNotFoundError) -> str:
    return (
        str(error)
        if isinstance(error, Refused)
        else "The file is gone from var/imports. Send it again."
    )


@transaction.atomic
def _end(running: Import, *, failure: str = "") -> None:
    state = Import.State.FAILED if failure else Import.State.DONE
    Import.objects.filter(pk=running.pk).update(
        state=state, failure=failure, ended_at=timezone.now(), path=""
    )
    # Only when it is certain that nobody needs it any more.
    path = Path(settings.IMPORTS) / running.path
    transaction.on_commit(lambda: path.unlink(missing_ok=True))


@transaction.atomic
def _store(running: Import, batch: Batch) -> None:
    """Store the good lines of a batch with how far the import is. Raises ImportOvertaken.

    The imports of a model take turns, so that the same line in two files makes one pair.
    """
    jobs.in_turn(_turn(running.model_id))
    good, rejected = _parsed(batch)
    new = _unknown(running.model_id, good)
    pairs = _pairs(running.model, [line for _, line in new.values()])
    ImportedPreference.objects.bulk_create(
        ImportedPreference(
            pair=pair,
            model_id=running.model_id,
            source=running,
            line=number,
            preferred=preferred,
            target=line.target,
            sha256=sha256,
        )
        for (sha256, (number, line)), (pair, preferred) in zip(new.items(), pairs, strict=True)
    )
    kept = running.rejected + rejected[: MOST_REJECTED - len(running.rejected)]
    advanced = Import.objects.filter(
        pk=running.pk, state=Import.State.RUNNING, done=running.done
    ).update(
        done=batch.done,
        lines=batch.last,
        created=F("created") + len(new),
        duplicates=F("duplicates") + len(batch.lines) - len(rejected) - len(new),
        held_out=F("held_out") + sum(pair.purpose == Pair.Purpose.EVAL for pair, _ in pairs),
        rejected_count=F("rejected_count") + len(rejected),
        rejected=kept,
    )
    if not advanced:
        raise ImportOvertaken
    running.done, running.rejected = batch.done, kept


def _parsed(batch: Batch) -> tuple[dict[str, tuple[int, PreferenceLine]], list[list[Any]]]:
    """Return the good lines by hash, each once, and number and reason of the others."""
    good: dict[str, tuple[int, PreferenceLine]] = {}
    rejected: list[list[Any]] = []
    for number, raw in batch.lines:
        try:
            line = preferences.parse(raw)
        except Refused as refused:
            rejected.append([number, str(refused)])
        else:
            good.setdefault(line.sha256, (number, line))
    return good, rejected


def _unknown(
    model_id: int, good: dict[str, tuple[int, PreferenceLine]]
) -> dict[str, tuple[int, PreferenceLine]]:
    known = set(
        ImportedPreference.objects.filter(model=model_id, sha256__in=good).values_list(
            "sha256", flat=True
        )
    )
    return {sha256: found for sha256, found in good.items() if sha256 not in known}


def _pairs(model: RegisteredModel, lines: list[PreferenceLine]) -> list[tuple[Pair, Completion]]:
    """Store a pair for each line; return it with the better completion."""
    asked = _prompts(model, {line.prompt.sha256: line.prompt for line in lines})
    completions = Completion.objects.bulk_create(
        Completion(prompt=asked[line.prompt.sha256], origin=Completion.Origin.IMPORT, text=text)
        for line in lines
        for text in (line.good, line.bad)
    )
    better, worse = completions[::2], completions[1::2]
    pairs = Pair.objects.bulk_create(_pair(*sides) for sides in zip(better, worse, strict=True))
    return list(zip(pairs, better, strict=True))


def _pair(one: Completion, other: Completion) -> Pair:
    first, second = sorted((one, other), key=lambda completion: completion.pk)
    is_train = one.prompt.split == Split.TRAIN
    return Pair(
        prompt=one.prompt,
        prompt_split=one.prompt.split,
        first=first,
        second=second,
        purpose=Pair.Purpose.TRAIN if is_train else Pair.Purpose.EVAL,
        arm=Pair.IMPORTED,
    )


def _prompts(model: RegisteredModel, wanted: dict[str, prompts.PromptLine]) -> dict[str, Prompt]:
    """Return the prompts by hash, storing those that are new; the hash decides the split of these."""
    share = queries.policy_of(model).holdout_share
    found = _prompts_by_hash(model, wanted)
    Prompt.objects.bulk_create(
        (
            _prompt(model=model, line=line, sha256=sha256, share=share)
            for sha256, line in wanted.items()
            if sha256 not in found
        ),
        # Another import of prompts may be faster.
        ignore_conflicts=True,
    )
    return found | _prompts_by_hash(model, wanted.keys() - found.keys())


def _prompts_by_hash(model: RegisteredModel, hashes: Iterable[str]) -> dict[str, Prompt]:
    rows = Prompt.objects.filter(model=model, sha256__in=list(hashes)).only("sha256", "split")
    return {prompt.sha256: prompt for prompt in rows}


def _prompt(
    *, model: RegisteredModel, line: prompts.PromptLine, sha256: str, share: float
) -> Prompt:
    split = Split.HOLDOUT if prompts.is_held_out(sha256, share=share) else Split.TRAIN
    return Prompt(model=model, messages=line.messages, sha256=sha256, split=split, tags=line.tags)
