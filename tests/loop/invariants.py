"""What must be true of a product whatever happened to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from models_registry.hashing import folder_sha256
from pairloop.up import postgres
from tests.loop.product import Product, processes_of

#: How a trainer's processes are recognised.
TRAINER = "-m training.dpo"


@contextmanager
def database(product: Product) -> Iterator[psycopg.Cursor[Any]]:
    """Yield a cursor of the product's own database."""
    there = postgres.Cluster.of(product.var).database()
    with psycopg.connect(
        host=there["HOST"], user=there["USER"], password=there["PASSWORD"], dbname=there["NAME"]
    ) as connection:
        yield connection.cursor()


def rows(product: Product, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    """Return what a statement finds."""
    with database(product) as cursor:
        return cursor.execute(sql, arguments).fetchall()


def versions(product: Product) -> list[tuple[Any, ...]]:
    """Return hash and folder of every adapter."""
    return rows(
        product,
        "SELECT sha256, artifact_path FROM models_registry_modelversion WHERE kind = 'adapter'",
    )


def judgements_are_there(product: Product, acknowledged: list[str]) -> None:
    """Check I1 only; `acknowledged` are the assignments whose judgement was."""
    # I1: each acknowledged judgement is there once.
    counted = rows(
        product,
        "SELECT assignment_id::text, count(*) FROM annotate_judgement"
        " WHERE assignment_id = ANY(%s::uuid[]) GROUP BY 1",
        acknowledged,
    )
    assert dict(counted) == dict.fromkeys(acknowledged, 1)


def invariants_hold(product: Product, acknowledged: list[str]) -> None:
    """Check I1 to I6; `acknowledged` are the assignments whose judgement was."""
    judgements_are_there(product, acknowledged)
    # I2: each triple was consumed by one successful round at most.
    assert not rows(
        product,
        "SELECT pair_id FROM training_snapshotitem WHERE role = 'new' AND is_consumed"
        " GROUP BY 1 HAVING count(*) > 1",
    )
    # I3: each version's files are all there, with the hash that was registered.
    for sha256, path in versions(product):
        assert folder_sha256(product.var / "versions" / path) == sha256
    # I4: each alias points at a version that may be used.
    assert not rows(
        product,
        "SELECT a.name FROM models_registry_alias a JOIN models_registry_modelversion v"
        " ON v.id = a.version_id WHERE v.state NOT IN ('verified', 'registered')",
    )
    # I5: nobody holds a round that has ended.
    assert not rows(
        product,
        "SELECT a.id FROM training_roundattempt a JOIN training_round r ON r.id = a.round_id"
        " WHERE a.outcome = '' AND r.state NOT IN ('queued', 'running')",
    )
    # I6: no trainer is left.
    deadline = time.monotonic() + 5
    while processes_of(product.var, naming=TRAINER) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(product.var, naming=TRAINER) == {}
