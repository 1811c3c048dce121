"""Many rows at once, past the ORM: PostgreSQL's COPY. Constraints and triggers hold as ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection
from django.db.models import Model
from psycopg import sql


def ids_reserve(model: type[Model], count: int) -> list[int]:
    """Take so many ids, ascending, that nobody else will get."""
    table, column = model._meta.db_table, model._meta.pk.column  # noqa: SLF001 there is no public name for it
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, %s)) FROM generate_series(1, %s)",
            [table, column, count],
        )
        return sorted(number for (number,) in cursor.fetchall())


def copy(model: type[Model], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Store rows of these columns. No default of a field is applied: name every column that must not be NULL."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(model._meta.db_table),  # noqa: SLF001
        sql.SQL(", ").join(map(sql.Identifier, columns)),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as file:
        for row in rows:
            file.write_row(row)
