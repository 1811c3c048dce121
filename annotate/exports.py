"""Triples as files that `datasets` and TRL read as they are: JSONL and Parquet, written as they are read.

The keys that TRL's DPOTrainer writes itself, `prompt_ids`, `chosen_ids` and `rejected_ids`, are not used: the ids
of the tokens are below `tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from django.db.models import Q, QuerySet

from annotate import triples
from annotate.models import Completion, Pair
from annotate.triples import Triple

#: The names of the better and the worse answer in a file.
KEYS = {"chosen_rejected": ("chosen", "rejected"), "good_bad": ("good", "bad")}
JSONL = "jsonl"
PARQUET = "parquet"
MEDIA_TYPES = {JSONL: "application/jsonl", PARQUET: "application/vnd.apache.parquet"}
#: Triples of one row group: what is in memory at once.
ROW_GROUP = 2000

Wanted = Callable[[Triple], bool]


def triples_export(
    *, pairs: QuerySet[Pair, Pair], file_format: str, ties: bool, keys: str
) -> Iterator[bytes]:
    """Yield the bytes of a file with the triples of pairs."""
    good, bad = KEYS[keys]
    rows = (
        row_of(triple, good=good, bad=bad)
        for triple in _typical_first(pairs, lambda triple: ties or not triple.is_tie)
    )
    return _parquet(rows, good, bad) if file_format == PARQUET else _jsonl(rows)


def row_of(triple: Triple, *, good: str, bad: str) -> dict[str, Any]:
    """Return a triple as a row: what trainers expect first, then where it came from."""
    chosen, rejected = triple.chosen, triple.rejected
    has_ids = None not in (triple.prompt_ids, chosen.ids, rejected.ids)
    return {
        "prompt": triple.messages,
        good: chosen.messages,
        bad: rejected.messages,
        "target": triple.target,
        "weight": triple.weight,
        "tags": triple.tags,
        "origin": triple.origin,
        "pair": triple.pair_id,
        "judgements": triple.judgement_ids,
        "version": {good: chosen.version, bad: rejected.version},
        "finish": {good: chosen.finish_reason, bad: rejected.finish_reason},
        "tokens": {"prompt": triple.prompt_ids, good: chosen.ids, bad: rejected.ids}
        if has_ids
        else None,
    }


def _typical_first(pairs: QuerySet[Pair, Pair], is_wanted: Wanted) -> Iterator[Triple]:
    """Yield the wanted triples in order, but before all others one for each field that is empty in some.

    Readers of JSONL take a column's type from the file's beginning: where `tags` was always empty there,
    a tag that comes later is an error.
    """
    first: dict[int, Triple] = {}
    written = Q(first__version__isnull=False) | Q(second__version__isnull=False)
    shown: list[tuple[QuerySet[Pair, Pair], Wanted]] = [
        (pairs.exclude(prompt__tags=[]), lambda triple: bool(triple.tags)),
        (triples.judged(pairs), lambda triple: bool(triple.judgement_ids)),
        (pairs.filter(written), lambda triple: triple.chosen.version is not None),
        (pairs.filter(written), lambda triple: triple.rejected.version is not None),
        (
            pairs.filter(
                first__origin=Completion.Origin.ENGINE, second__origin=Completion.Origin.ENGINE
            ),
            lambda triple: True,
        ),
    ]
    for among, is_shown in shown:
        wanted = filter(is_wanted, triples.triples_of(among))
        found = next(filter(is_shown, wanted), None)
        if found:
            first[found.pair_id] = found
    yield from first.values()
    for triple in filter(is_wanted, triples.triples_of(pairs)):
        if triple.pair_id not in first:
            yield triple


def _jsonl(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


class _Outbox:
    """What pyarrow writes to, and we take away."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _parquet(rows: Iterator[dict[str, Any]], good: str, bad: str) -> Iterator[bytes]:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    schema, outbox = _schema(good, bad), _Outbox()
    with parquet.ParquetWriter(pa.PythonFile(outbox, mode="w"), schema, compression="zstd") as file:
        while group := list(islice(rows, ROW_GROUP)):
            file.write_table(pa.Table.from_pylist(group, schema=schema))
            yield outbox.take()
    yield outbox.take()


def _schema(good: str, bad: str) -> Any:
    """Return the columns' types, the same whether or not a field is empty everywhere."""
    import pyarrow as pa  # noqa: PLC0415

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    ids = pa.list_(pa.int32())
    return pa.schema(
        [
            ("prompt", messages),
            (good, messages),
            (bad, messages),
            ("target", pa.float64()),
            ("weight", pa.float64()),
            ("tags", pa.list_(pa.string())),
            ("origin", pa.string()),
            ("pair", pa.int64()),
            ("judgements", pa.list_(pa.int64())),
            ("version", pa.struct([(good, pa.int32()), (bad, pa.int32())])),
            ("finish", pa.struct([(good, pa.string()), (bad, pa.string())])),
            ("tokens", pa.struct([("prompt", ids), (good, ids), (bad, ids)])),
        ]
    )
