"""Whatever is killed in the middle of a round: one version comes of it, and no judgement is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pairloop.up import postgres
from tests.loop.invariants import (
    TRAINER,
    invariants_hold,
    judgements_are_there,
    rows,
    versions,
)
from tests.loop.product import Api, Product, judge_shorter, processes_of

pytestmark = pytest.mark.engine

#: Triples of a round at least, and its settings: short steps, enough to be killed in the middle, that change little.
TRIPLES = 6
STEPS = 60
ROUND = {"batch_pairs": 1, "learning_rate": 1e-5, "replay_share": 0}
#: So that killing things does not take all day: a dead worker is noticed soon, an evaluation asks little.
QUICK = {"PAIRLOOP_LEASE_SECONDS": "6", "PAIRLOOP_EVALUATION_PROMPTS": "2"}
#: What runs while a round trains, and how its first process is recognised.
VICTIMS = {
    "trainer": TRAINER,
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


class TestKilledSupervisor:
    """In order, and before the rounds."""

    def test_leaves_nothing_behind_when_the_supervisor_is_killed(self, product: Product) -> None:
        assert len(processes_of(product.var)) >= 6

        product.process.kill()

        assert product.process.wait(timeout=10) == -signal.SIGKILL
        assert _left_after(product.var, seconds=15) == {}

    def test_starts_again_with_everything_that_was_there(self, product: Product) -> None:
        product.settings |= QUICK
        product.start()

        product.wait_for("the page", lambda: product.printed("web ready"), seconds=90)
        assert product.passwords() == {}
        assert len(versions(product)) == 1
        # A socket that the killed engine left behind must not keep the new one from starting.
        product.wait_for("the engine", lambda: product.printed("engine ready"), seconds=420)
        assert not product.printed("engine ended")


class TestKilledInMidRound:
    """Each test is a round of its own on the same product, and each kill comes while it trains."""

    def test_trainer_and_later_postgres(self, running: Product) -> None:
        survives(running, "trainer", "postgres")

    def test_worker_and_later_the_engine(self, running: Product) -> None:
        survives(running, "worker", "engine")


class TestStopped:
    """Last, after all that."""

    def test_leaves_nothing_behind_after_ctrl_c(self, running: Product) -> None:
        running.process.send_signal(signal.SIGINT)

        assert running.process.wait(timeout=60) == 0, running.told()
        assert _left_after(running.var, seconds=10) == {}


def survives(product: Product, first: str, second: str) -> None:
    """Start a round, kill one thing and then another while it trains, judge meanwhile, and look at what came of it.

    After the first, the round must make steps in another attempt.
    """
    with product.log_in("admin") as admin_client, product.log_in("labeler") as labeler_client:
        admin, labeler = Api(admin_client), Api(labeler_client)
        before = versions(product)
        acknowledged = judge_until(product, admin, labeler)
        waiting = admin.get("models/demo/rounds/")["triples_waiting"]
        epochs = max(1, STEPS // waiting)
        number = admin.post("models/demo/rounds/", ROUND | {"epochs": epochs})["number"]
        path = f"models/demo/rounds/{number}/"

        attempt = trains(product, number)
        kill(product, first)
        acknowledged += judge_once_it_answers(product, labeler)
        judgements_are_there(product, acknowledged)

        trains(product, number, since=attempt + 1)
        kill(product, second)
        acknowledged += judge_once_it_answers(product, labeler)

        product.wait_for("the round's end", lambda: ended(admin, path), seconds=900)
        assert admin.get(path)["state"] == "succeeded", admin.get(path)
    assert len(versions(product)) == len(before) + 1
    invariants_hold(product, acknowledged)


def trains(product: Product, number: int, *, since: int = 1) -> int:
    """Wait for a step of a round's attempt of this number or a later one; return which it was."""
    found: list[tuple[int]] = []

    def steps() -> bool:
        found[:] = rows(
            product,
            "SELECT a.number FROM training_roundattempt a JOIN training_round r ON r.id = a.round_id"
            " WHERE r.number = %s AND a.number >= %s AND a.outcome = '' AND a.stage = 'training' AND a.stage_done > 0",
            number, since,
        )  # fmt: skip
        return bool(found)

    product.wait_for(f"a step of round {number}", steps, seconds=300)
    return found[0][0]


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

    product.wait_for(f"{TRIPLES} triples", enough, seconds=900)
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


def _left_after(var: Path, *, seconds: float) -> dict[int, str]:
    """Return what still runs on a state folder once it is quiet, or when the time is up."""
    deadline = time.monotonic() + seconds
    while processes_of(var) and time.monotonic() < deadline:
        time.sleep(0.2)
    return processes_of(var)
