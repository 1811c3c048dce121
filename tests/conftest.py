"""What every test shares: a PostgreSQL that runs for the length of the session.

The trainer's tests load this file in an environment without Django, hence the imports inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

# Their tests run in .venv-ml; `tests.run` names the command.
collect_ignore = [] if find_spec("torch") else ["convert"]


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
) -> Iterator[None]:
    """Run the tests' own cluster, before pytest-django creates its database in it."""
    from django.conf import settings  # noqa: PLC0415

    from pairloop.up import postgres  # noqa: PLC0415

    if settings.DATABASE_URL:
        yield
        return
    with postgres.running(postgres.Cluster.of(settings.VAR), createdb=True, durable=False):
        yield


@pytest.fixture
def no_jobs(db: None) -> Iterator[None]:
    """Begin and end with an empty queue: its tables are not Django's, so nothing else empties them."""
    from django.db import connection  # noqa: PLC0415

    empty = "TRUNCATE procrastinate_jobs CASCADE"
    with connection.cursor() as cursor:
        cursor.execute(empty)
    yield
    with connection.cursor() as cursor:
        cursor.execute(empty)
