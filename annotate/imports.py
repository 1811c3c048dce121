"""Preference pairs from a file: kept as it came, then stored batch by batch, each whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
from pairloop.lib import bulk, files, jobs
from pairloop.lib.errors import Refused

logger = logging.getLogger(__name__)

#: Rejected lines that the report names; the others are counted.
MOST_REJECTED = 1000

#: Line number and line, by hash.
Lines = dict[str, tuple[int, PreferenceLine]]


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
            jobs.in_turn(queries.import_turn(model))
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

    The imports of a model take turns, so that the same line in two files makes one pair, and one prompt.
    """
    jobs.in_turn(queries.import_turn(running.model))
    good, rejected = _parsed(batch)
    new = _unknown(running.model_id, good)
    held_out = _insert(running, new)
    kept = running.rejected + rejected[: MOST_REJECTED - len(running.rejected)]
    advanced = Import.objects.filter(
        pk=running.pk, state=Import.State.RUNNING, done=running.done
    ).update(
        done=batch.done,
        lines=batch.last,
        created=F("created") + len(new),
        duplicates=F("duplicates") + len(batch.lines) - len(rejected) - len(new),
        held_out=F("held_out") + held_out,
        rejected_count=F("rejected_count") + len(rejected),
        rejected=kept,
    )
    if not advanced:
        raise ImportOvertaken
    running.done, running.rejected = batch.done, kept


def _parsed(batch: Batch) -> tuple[Lines, list[list[Any]]]:
    """Return the good lines by hash, each once, and number and reason of the others."""
    good: Lines = {}
    rejected: list[list[Any]] = []
    for number, raw in batch.lines:
        try:
            line = preferences.parse(raw)
        except Refused as refused:
            rejected.append([number, str(refused)])
        else:
            good.setdefault(line.sha256, (number, line))
    return good, rejected


def _unknown(model_id: int, good: Lines) -> Lines:
    known = set(
        ImportedPreference.objects.filter(model=model_id, sha256__in=good).values_list(
            "sha256", flat=True
        )
    )
    return {sha256: found for sha256, found in good.items() if sha256 not in known}


def _insert(running: Import, new: Lines) -> int:
    """Store completions, pair and preference of each line; return how many are held out."""
    asked = _prompts(running.model, {line.prompt.sha256: line.prompt for _, line in new.values()})
    now = timezone.now()
    pairs = bulk.ids_reserve(Pair, len(new))
    completions = bulk.ids_reserve(Completion, 2 * len(new))
    stored = [
        _Stored(pair, good, bad, number, line, sha256, asked[line.prompt.sha256])
        for pair, good, bad, (sha256, (number, line)) in zip(
            pairs, completions[::2], completions[1::2], new.items(), strict=True
        )
    ]
    bulk.copy(
        Completion,
        ["id", "prompt_id", "origin", "text", "finish_reason", "sampling", "created_at"],
        (
            (pk, one.prompt.pk, Completion.Origin.IMPORT.value, text, "", "{}", now)
            for one in stored
            for pk, text in ((one.good, one.line.good), (one.bad, one.line.bad))
        ),
    )
    bulk.copy(
        Pair,
        ["id", "prompt_id", "prompt_split", "first_id", "second_id", "purpose", "arm", "priority", "created_at"],
        (
            (one.pair, one.prompt.pk, one.prompt.split, one.good, one.bad, one.purpose, Pair.IMPORTED, 0, now)
            for one in stored
        ),
    )  # fmt: skip
    bulk.copy(
        ImportedPreference,
        ["pair_id", "model_id", "source_id", "line", "preferred_id", "target", "sha256"],
        (
            (
                one.pair,
                running.model_id,
                running.pk,
                one.number,
                one.good,
                one.line.target,
                one.sha256,
            )
            for one in stored
        ),
    )
    return sum(one.prompt.split == Split.HOLDOUT for one in stored)


class _Stored(NamedTuple):
    """A line with the ids of its rows."""

    pair: int
    #: The lower one of the two completions, since a pair's first is.
    good: int
    bad: int
    number: int
    line: PreferenceLine
    sha256: str
    prompt: Prompt

    @property
    def purpose(self) -> str:
        """What its prompt's split makes of the pair."""
        purpose = Pair.Purpose.TRAIN if self.prompt.split == Split.TRAIN else Pair.Purpose.EVAL
        return str(purpose.value)


def _prompts(model: RegisteredModel, wanted: dict[str, prompts.PromptLine]) -> dict[str, Prompt]:
    """Return the prompts by hash, storing those that are new; the hash decides the split of these."""
    rows = Prompt.objects.filter(model=model, sha256__in=wanted).only("sha256", "split")
    found = {prompt.sha256: prompt for prompt in rows}
    missing = {sha256: line for sha256, line in wanted.items() if sha256 not in found}
    share = queries.policy_of(model).holdout_share
    ids = bulk.ids_reserve(Prompt, len(missing))
    new = [
        Prompt(
            pk=pk,
            messages=line.messages,
            sha256=sha256,
            split=Split.HOLDOUT if prompts.is_held_out(sha256, share=share) else Split.TRAIN,
            tags=line.tags,
        )
        for pk, (sha256, line) in zip(ids, missing.items(), strict=True)
    ]
    now = timezone.now()
    bulk.copy(
        Prompt,
        ["id", "model_id", "messages", "sha256", "split", "tags", "refusal", "created_at"],
        (
            (one.pk, model.pk, json.dumps(one.messages), one.sha256, one.split, one.tags, "", now)
            for one in new
        ),
    )
    return found | {prompt.sha256: prompt for prompt in new}
