"""What the tests of the database's own rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import DatabaseError, connection, transaction

#: The rule that refuses, and what must be refused.
Breach = tuple[str, Callable[[], object]]

#: Constraints and partial unique indexes of one app. Django names those that come with a field
#: after the table; foreign keys count only when they join more than one column.
WRITTEN = """
    SELECT conname FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE relname LIKE %(tables)s
      AND (contype IN ('c', 'u') OR contype = 'f' AND cardinality(conkey) > 1)
      AND (conname NOT LIKE %(tables)s OR conname LIKE '%%_same_model')
    UNION
    SELECT i.relname FROM pg_index JOIN pg_class i ON i.oid = indexrelid
    JOIN pg_class t ON t.oid = indrelid
    WHERE t.relname LIKE %(tables)s AND indisunique AND indpred IS NOT NULL
"""


def rules_of(app: str) -> set[str]:
    """Return the names of the rules that we wrote for one app's tables."""
    with connection.cursor() as cursor:
        cursor.execute(WRITTEN, {"tables": f"{app}\\_%"})
        return {name for (name,) in cursor.fetchall()}


@contextmanager
def refused_by(rule: str) -> Iterator[None]:
    """Expect the database to refuse the block, by the rule of that name or with that message."""
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        yield
    said = caught.value.__cause__.diag
    assert rule in {said.constraint_name, said.message_primary}


def execute(sql: str, *arguments: object) -> None:
    """Run one statement past the ORM."""
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments)
