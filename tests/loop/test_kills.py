"""Whatever is killed in the middle of a round: one version comes of it, and no judgement is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from models_registry.hashing import folder_sha256
from pairloop.up import postgres
from tests.loop.product import Api, Product, judge_shorter, processes_of

pytestmark = pytest.mark.engine

#: Triples of each round, and its settings: sixty short steps, long enough to be killed in the middle, that change little.
TRIPLES = 6
ROUND = {"epochs": 10, "batch_pairs": 1, "learning_rate": 1e-5, "replay_share": 0}
#: What runs while a round trains, and how its first process is recognised.
VICTIMS = {
    "trainer": "-m training.dpo",
    "worker": "procrastinate worker --queues train",
    "engine": "serve",
}


@pytest.fixture(scope="module")
def running(product: Product) -> Iterator[Product]:
    """The product, started again if an earlier test stopped it, with an engine that answers."""
    if product.process.poll() is not None:
        product.start()
        product.wait_for("the page", lambda: product.printed("web ready"), seconds=90)
    product.wait_for("the engine", lambda: product.printed("engine ready"), seconds=420)
    return product


class TestKilledInMidRound:
    """Each test is a round of its own on the same product."""

    def test_trainer(self, running: Product) -> None:
        survives(running, "trainer")

    def test_worker(self, running: Product) -> None:
        survives(running, "worker")

    def test_engine(self, running: Product) -> None:
        survives(running, "engine")

    def test_postgres(self, running: Product) -> None:
        survives(running, "postgres")


def survives(product: Product, victim: str) -> None:
    """Start a round, kill one thing in the middle of it, judge meanwhile, and look at what came of it."""
    with product.log_in("admin") as admin_client, product.log_in("labeler") as labeler_client:
        admin, labeler = Api(admin_client), Api(labeler_client)
        before = versions(product)
        acknowledged = judge_until(product, admin, labeler)
        number = admin.post("models/demo/rounds/", ROUND)["number"]
        path = f"models/demo/rounds/{number}/"
        product.wait_for(
            "the first steps", lambda: admin.get(path)["metrics"].get("loss"), seconds=180
        )

        kill(product, victim)
        acknowledged += judge_once_it_answers(product, labeler)

        product.wait_for("the round's end", lambda: ended(admin, path), seconds=420)
        assert admin.get(path)["state"] == "succeeded", admin.get(path)
    assert len(versions(product)) == len(before) + 1
    invariants_hold(product, acknowledged)


def kill(product: Product, victim: str) -> None:
    """Kill the first process of what is to die, as the kernel would."""
    if victim == "postgres":
        # Its data may be elsewhere; it writes down which process is the first.
        note = postgres.Cluster.of(product.var).data / "postmaster.pid"
        os.kill(int(note.read_text().split()[0]), signal.SIGKILL)
        return
    found = sorted(processes_of(product.var, naming=VICTIMS[victim]))
    assert found, f"no {victim} runs: {processes_of(product.var)}"
    os.kill(found[0], signal.SIGKILL)


def judge_until(product: Product, admin: Api, labeler: Api) -> list[str]:
    """Judge until a round's triples are there; return the assignments whose judgement was acknowledged."""
    acknowledged: list[str] = []

    def enough() -> bool:
        if judged := judge_shorter(labeler):
            acknowledged.append(judged)
        waiting: int = admin.get("models/demo/rounds/")["triples_waiting"]
        return waiting >= TRIPLES

    product.wait_for(f"{TRIPLES} triples", enough, seconds=420)
    return acknowledged


def judge_once_it_answers(product: Product, labeler: Api) -> list[str]:
    """Judge as a person would while something is down: try again until the page answers."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if judged := judge_shorter(labeler):
                return [judged]
        except (httpx.HTTPError, AssertionError):
            pass
        time.sleep(1)
    pytest.fail(f"nothing could be judged for 90 s\n{product.told()}")


def ended(admin: Api, path: str) -> bool:
    """Return whether the round has ended; a page that does not answer says nothing."""
    try:
        found: dict[str, Any] = admin.get(path)
    except (httpx.HTTPError, AssertionError):
        return False
    return found["state"] in {"succeeded", "failed", "cancelled"}


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


def invariants_hold(product: Product, acknowledged: list[str]) -> None:
    """Check what must be true after whatever happened, I1 to I6."""
    # I1: each acknowledged judgement is there once.
    counted = rows(
        product,
        "SELECT assignment_id::text, count(*) FROM annotate_judgement"
        " WHERE assignment_id = ANY(%s::uuid[]) GROUP BY 1",
        acknowledged,
    )
    assert dict(counted) == dict.fromkeys(acknowledged, 1)
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
    while processes_of(product.var, naming=VICTIMS["trainer"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(product.var, naming=VICTIMS["trainer"]) == {}
