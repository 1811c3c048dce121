"""What every test shares: a PostgreSQL that runs for the length of the session.

The trainer's tests load this file in an environment without Django, hence the imports inside.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


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
