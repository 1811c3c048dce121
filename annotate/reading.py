"""Files of preferences in batches, from where an earlier attempt stopped; memory does not grow with the file.

No ORM. pyarrow is loaded only where Parquet is read: the web process does without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from annotate import preferences
from annotate.preferences import Unread
from annotate.prompts import NOT_JSON
from pairloop.lib.errors import Refused

#: Lines of a batch, and the bytes after which it ends earlier.
BATCH = 1000
BATCH_BYTES = 16 * 1024 * 1024
#: Bytes of one line; a prompt with two answers cannot be longer and be accepted.
LONGEST = 4 * 1024 * 1024
#: Rows that are Python objects at once, before they are counted.
ROWS = 64
MAGIC = b"PAR1"
COLUMNS = (
    "prompt",
    "system",
    "tags",
    "target",
    *(key for pair in preferences.KEYS for key in pair),
)


class FileUnreadable(Refused):
    """This file cannot be read. Send JSONL or Parquet."""

    code = "file_unreadable"


@dataclass(slots=True)
class Batch:
    """Some lines, and where the next ones begin."""

    #: (line number, value)
    lines: list[tuple[int, Any]] = field(default_factory=list)
    #: Bytes or rows of the file that are behind us.
    done: int = 0
    #: Lines behind us, the blank ones too.
    last: int = 0


def is_parquet(path: Path) -> bool:
    """Tell Parquet from JSONL by the first bytes. Raises FileUnreadable for what is neither."""
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(MAGIC):
        return True
    if not start:
        raise FileUnreadable("The file is empty. Send JSONL or Parquet with at least one line.")
    if start.startswith(b"["):
        raise FileUnreadable(
            "This is a JSON list. Write JSONL: one object a line, without brackets around."
        )
    if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ")):
        raise FileUnreadable("This file is compressed. Unpack it first.")
    return False


def parquet_rows(path: Path) -> int:
    """Count the rows of a Parquet file that has the columns of preferences. Raises FileUnreadable."""
    with _parquet(path) as file:
        columns = file.schema_arrow.names
        if not any({good, bad} <= set(columns) for good, bad in preferences.KEYS):
            named = ", ".join(name[:40] for name in columns[:10]) or "none"
            raise FileUnreadable(
                f'The file has the columns {named}; it needs "chosen" and "rejected", or "good" and "bad".'
            )
        return int(file.metadata.num_rows)


def jsonl_batches(path: Path, *, done: int, last: int) -> Iterator[Batch]:
    """Yield the lines from a byte on; a line that is no JSON is passed on as what says so."""
    with path.open("rb") as file:
        file.seek(done)
        while (batch := _jsonl_batch(file, last)).done > done:
            done, last = batch.done, batch.last
            yield batch


def _jsonl_batch(file: IO[bytes], last: int) -> Batch:
    start = file.tell()
    batch = Batch(done=start, last=last)
    while len(batch.lines) < BATCH and batch.done - start < BATCH_BYTES:
        line = file.readline(LONGEST)
        if not line:
            break
        batch.last += 1
        is_whole = line.endswith(b"\n") or len(line) < LONGEST or _line_ends(file)
        value = _value(line, is_first=batch.last == 1) if is_whole else _TOO_LONG
        batch.done = file.tell()
        if value is not _BLANK:
            batch.lines.append((batch.last, value))
    return batch


_BLANK = object()
_TOO_LONG = Unread(f"This line is longer than {LONGEST // 1024**2} MiB.")
_NO_TEXT = Unread("This line is not UTF-8 text.")


def _line_ends(file: IO[bytes]) -> bool:
    """Go to the end of the line; return whether nothing but its end was left."""
    rest = file.readline(LONGEST)
    is_end = rest in {b"", b"\n", b"\r\n"}
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(LONGEST)
    return is_end


def _value(line: bytes, *, is_first: bool) -> Any:
    """Return what a line says."""
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
        return json.loads(text) if text.strip() else _BLANK
    except UnicodeDecodeError:
        return _NO_TEXT
    except (ValueError, RecursionError):
        return NOT_JSON


def parquet_batches(path: Path, *, done: int) -> Iterator[Batch]:
    """Yield the rows from a row on. Raises FileUnreadable when a part of the file is damaged."""
    batch, size = Batch(done=done, last=done), 0
    damage = None
    try:
        for rows, weight in _parquet_rows(path, done):
            batch.lines += enumerate(rows, start=batch.done + 1)
            batch.done = batch.last = batch.done + len(rows)
            size += weight
            if len(batch.lines) >= BATCH - ROWS or size >= BATCH_BYTES:
                yield batch
                batch, size = Batch(done=batch.done, last=batch.last), 0
    except FileUnreadable as error:
        damage = error
    if batch.lines:
        yield batch
    if damage:
        raise damage


def _parquet_rows(path: Path, done: int) -> Iterator[tuple[list[Any], int]]:
    """Yield a few rows at a time as Python objects, with their bytes in memory."""
    with _parquet(path) as file:
        columns = [name for name in file.schema_arrow.names if name in COLUMNS]
        groups, skip = _groups_left(file, done)
        if not groups:
            return
        pieces = file.iter_batches(batch_size=ROWS, row_groups=groups, columns=columns)
        while (piece := _next_piece(pieces)) is not None:
            left = piece.slice(min(skip, piece.num_rows))
            skip -= piece.num_rows - left.num_rows
            if left.num_rows:
                yield _objects(left), left.nbytes


def _groups_left(file: Any, done: int) -> tuple[list[int], int]:
    """Return the row groups that have rows left, and how many rows of the first are done."""
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if done < rows:
            return list(range(group, file.metadata.num_row_groups)), done
        done -= rows
    return [], 0


def _objects(piece: Any) -> list[Any]:
    try:
        rows: list[Any] = piece.to_pylist()
    except (UnicodeDecodeError, ValueError):
        rows = [_object(piece.slice(number, 1)) for number in range(piece.num_rows)]
    return rows


def _object(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except (UnicodeDecodeError, ValueError):
        return _NO_TEXT


def _next_piece(pieces: Iterator[Any]) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    try:
        return next(pieces, None)
    except (pa.ArrowException, OSError) as error:
        raise FileUnreadable(
            "A part of the Parquet file is damaged. Write it anew, and import it again: what was imported"
            " already is not imported twice."
        ) from error


def _parquet(path: Path) -> Any:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        # Unbuffered, or a file of one row group would be in memory as a whole.
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise FileUnreadable("This is not a whole Parquet file. Write it anew.") from error
