"""Statements written by hand that the server plans once for a connection, not each time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from django.db import connection
from django.db.models import Field, JSONField, Model
from psycopg import Connection, OperationalError
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

_PARAMETER = re.compile(r"%\((\w+)\)s")
#: Which statements a connection of psycopg's knows.
_known: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
_DONE = {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK}

#: What libpq tells of a statement that ran, and its rows.
Ran = tuple[PGresult, list[tuple[Any, ...]]]


class Statement:
    """One statement with parameters like %(name)s, which need a cast wherever PostgreSQL cannot tell their type.

    Planning a join of ten tables takes longer than running it, and people wait for both. Where the database is
    not our own, a pooler may stand between us and the server and know nothing of prepared statements: sent as it is.
    """

    def __init__(self, name: str, sql: str) -> None:
        """Take a name of its own and the text."""
        names = list(dict.fromkeys(_PARAMETER.findall(sql)))
        numbers = {name: f"${number}" for number, name in enumerate(names, start=1)}
        self._name = name
        self._names = names
        self._plain = sql
        self._prepare = f"PREPARE {name} AS {_PARAMETER.sub(lambda m: numbers[m[1]], sql)}"
        self._execute = f"EXECUTE {name} ({', '.join(f'%({name})s' for name in names)})"

    def rows(self, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run it and return what it returns; all parameters must be there."""
        return self._run(parameters)[1]

    def row(self, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Run it and return its first row, if it has one."""
        found = self.rows(parameters)
        return found[0] if found else None

    def named(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Run it and return its rows by the names of the columns."""
        result, rows = self._run(parameters)
        names = [(result.fname(number) or b"").decode() for number in range(result.nfields)]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _run(self, parameters: Mapping[str, Any]) -> Ran:
        if settings.DATABASE_URL:
            return _by_cursor(self._plain, parameters)
        # As a cursor begins: a connection that died meanwhile is replaced here.
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        raw = connection.connection
        known = _known.setdefault(raw, set())
        if self._name not in known:
            # Once for each connection, so it is no statement of any request.
            with connection.wrap_database_errors:
                raw.execute(self._prepare)
            known.add(self._name)
        if _wants_cursor(raw):
            return _by_cursor(self._execute, parameters)
        return self._directly(raw, parameters)

    def _directly(self, raw: Connection, parameters: Mapping[str, Any]) -> Ran:
        """Have libpq run it: what cursors of Django and psycopg do around that takes twice as long."""
        with connection.wrap_database_errors:
            types = Transformer(raw)
            values = types.dump_sequence(
                [parameters[name] for name in self._names], [PyFormat.TEXT] * len(self._names)
            )
            # psycopg's own types forget that a value may be NULL.
            result = raw.pgconn.exec_prepared(self._name.encode(), values)  # type: ignore[arg-type]
            if raw.closed:
                raise OperationalError(result.get_error_message())
            if result.status not in _DONE:
                raise error_from_result(result, raw.info.encoding)
            types.set_pgresult(result)
            return result, types.load_rows(0, result.ntuples, tuple)


def _wants_cursor(raw: Connection) -> bool:
    """Whether somebody counts or watches statements, or the first of a transaction has to begin it."""
    is_watched = connection.queries_logged or connection.execute_wrappers
    return bool(is_watched) or not (
        raw.autocommit or raw.info.transaction_status == TransactionStatus.INTRANS
    )


def _by_cursor(sql: str, parameters: Mapping[str, Any]) -> Ran:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        # Not its description, which is an object for each column.
        return cursor.pgresult, cursor.fetchall() if cursor.pgresult.nfields else []


class Columns:
    """A table's columns in a statement's list, and what they become.

    `unread` names fields that are left out; Django reads such a one when somebody looks at it.
    """

    def __init__(self, alias: str, kind: type[Model], *, unread: Sequence[str] = ()) -> None:
        """Take the table's alias in the statement."""
        fields: list[Field[Any, Any]] = [
            field
            for field in kind._meta.concrete_fields  # noqa: SLF001
            if field.name not in unread
        ]
        self._kind = kind
        self._fields = fields
        self._names = [field.attname for field in fields]
        #: What to write behind SELECT.
        self.sql = ", ".join(f"{alias}.{field.column}" for field in fields)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._fields)

    def instance(self, values: Sequence[Any]) -> Any:
        """Return a row as Django would; None for the side of a join that is not there."""
        if values[0] is None:
            return None
        read = [
            field.from_db_value(value, None, connection)  # type: ignore[arg-type]
            if isinstance(field, JSONField)
            else value
            for field, value in zip(self._fields, values, strict=True)
        ]
        return self._kind.from_db("default", self._names, read)
