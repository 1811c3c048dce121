from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone
from procrastinate.contrib.django import app

from annotate import tasks
from annotate.models import Assignment, Pair, QueueEntry, Split
from models_registry import serving
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import EngineAnswerInvalid, EngineFailed, EngineUnreachable
from models_registry.models import ModelVersion
from pairloop.lib import jobs
from pairloop.up.tasks import jobs_tidy
from tests import factories


def sampler(prompts: int = 3) -> ModelVersion:
    """Make a model that wants two pairs and has prompts; return its sampler, v0."""
    model = factories.RegisteredModelFactory.create(judging_policy__queue_target=2)
    factories.PromptFactory.create_batch(prompts, model=model, split=Split.TRAIN)
    return ModelVersion.objects.get(model=model)


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    """Put a fake engine where tasks find theirs; it serves what a test lets it serve."""
    fake = FakeEngine()

    @contextmanager
    def opened(_url: str) -> Iterator[FakeEngine]:
        yield fake

    monkeypatch.setattr(serving, "engine", opened)
    return fake


def serve(engine: FakeEngine, *versions: ModelVersion) -> None:
    engine.adapters |= {version.served_name: f"/versions/{version.pk}" for version in versions}


def run_worker() -> None:
    """Work off what is queued, as the worker process does."""
    with app.replace_connector(app.connector.get_worker_connector()) as worker:
        worker.run_worker(wait=False, install_signal_handlers=False, listen_notify=False)


def state_of(job: int) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT status::text FROM procrastinate_jobs WHERE id = %s", [job])
        (state,) = cursor.fetchone()
    return state


@pytest.mark.django_db
class TestPairsTopUp:
    def test_fills_the_queue_of_every_model_that_is_served(self, engine: FakeEngine) -> None:
        versions = [sampler(), sampler()]
        serve(engine, *versions)

        tasks.pairs_top_up()

        for version in versions:
            assert QueueEntry.objects.filter(model=version.model).count() >= 2

    def test_passes_over_a_model_that_is_not_served(self, engine: FakeEngine) -> None:
        served, elsewhere = sampler(), sampler()
        serve(engine, served)

        tasks.pairs_top_up()

        assert Pair.objects.filter(prompt__model=served.model).exists()
        assert not Pair.objects.filter(prompt__model=elsewhere.model).exists()

    def test_does_nothing_before_the_engine_is_up(self, engine: FakeEngine) -> None:
        serve(engine, sampler())
        engine.up = False

        tasks.pairs_top_up()

        assert engine.asked == []
        assert not Pair.objects.exists()

    def test_goes_on_with_the_next_model_when_one_fails(
        self, engine: FakeEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken, whole = sampler(), sampler()
        serve(engine, broken, whole)
        engine.enqueue(EngineFailed("Out of memory."))

        tasks.pairs_top_up()

        assert not Pair.objects.filter(prompt__model=broken.model).exists()
        assert Pair.objects.filter(prompt__model=whole.model).exists()
        (warning,) = [record for record in caplog.records if record.name == tasks.logger.name]
        assert warning.levelno == logging.WARNING
        # The class alone: an engine's text may quote what it was asked.
        assert warning.getMessage().startswith(f"top-up of {broken.model} stopped: ")
        assert warning.getMessage().endswith(".EngineFailed")

    def test_tries_again_the_next_time(self, engine: FakeEngine) -> None:
        version = sampler()
        serve(engine, version)
        engine.enqueue(EngineFailed("Out of memory."))
        tasks.pairs_top_up()

        tasks.pairs_top_up()

        assert Pair.objects.filter(prompt__model=version.model).exists()

    @pytest.mark.parametrize("error", [EngineUnreachable(), EngineAnswerInvalid()])
    def test_survives_an_engine_that_goes_away_after_it_was_ready(
        self,
        engine: FakeEngine,
        monkeypatch,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ) -> None:
        serve(engine, sampler())

        def gone() -> tuple[str, ...]:
            raise error

        monkeypatch.setattr(engine, "models", gone)

        tasks.pairs_top_up()

        assert type(error).__name__ in caplog.text
        assert not Pair.objects.exists()

    def test_leaves_a_top_up_that_is_under_way_alone(self, engine: FakeEngine) -> None:
        serve(engine, sampler())
        other = connections.create_connection("default")
        try:
            with other.cursor() as cursor:
                key = int.from_bytes(hashlib.sha256(b"pairs-top-up").digest()[:8], signed=True)
                cursor.execute("SELECT pg_advisory_lock(%s)", [key])

            tasks.pairs_top_up()
        finally:
            # The lock goes with the connection, as it does when a worker is killed.
            other.close()

        assert not Pair.objects.exists()
        # The server takes a moment to see that the connection is gone.
        deadline = time.monotonic() + 10
        while jobs.is_done_by_somebody("pairs-top-up") and time.monotonic() < deadline:
            time.sleep(0.01)
        tasks.pairs_top_up()
        assert Pair.objects.exists()

    def test_lets_anything_else_through(self, engine: FakeEngine) -> None:
        # A bug of ours must end the job as failed, with its traceback.
        serve(engine, sampler())
        engine.enqueue(["three texts", "where four", "were asked"])

        with pytest.raises(AssertionError):
            tasks.pairs_top_up()


@pytest.mark.django_db
class TestLeasesRelease:
    def test_gives_back_what_has_expired_and_nothing_else(self) -> None:
        now = timezone.now()
        expired, running = (
            factories.AssignmentFactory.create(expires_at=now + timedelta(minutes=minutes))
            for minutes in (-1, 1)
        )
        for lease in (expired, running):
            factories.QueueEntryFactory.create(pair=lease.pair, leased=1)

        tasks.leases_release()

        leased = dict(QueueEntry.objects.values_list("pair", "leased"))
        assert leased == {expired.pair_id: 0, running.pair_id: 1}
        closed = Assignment.objects.exclude(closed_at=None)
        assert list(closed) == [expired]

    def test_releases_a_lease_once(self) -> None:
        lease = factories.AssignmentFactory.create(expires_at=timezone.now() - timedelta(minutes=1))
        factories.QueueEntryFactory.create(pair=lease.pair, wanted=2, leased=2)

        tasks.leases_release()
        tasks.leases_release()

        assert QueueEntry.objects.get().leased == 1


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_jobs")
class TestWorker:
    # The schedule may add jobs of its own to these, behind the one that was deferred.

    def test_runs_a_deferred_top_up(self, engine: FakeEngine) -> None:
        version = sampler()
        serve(engine, version)
        job = tasks.pairs_top_up.defer()

        run_worker()

        assert state_of(job) == "succeeded"
        assert QueueEntry.objects.filter(model=version.model).count() >= 2

    def test_goes_on_after_a_worker_was_killed_in_the_middle(self, engine: FakeEngine) -> None:
        version = sampler()
        serve(engine, version)
        left_behind = tasks.pairs_top_up.defer()
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", [left_behind]
            )
        tasks.pairs_top_up.defer()
        jobs_tidy.defer()

        run_worker()

        assert QueueEntry.objects.filter(model=version.model).count() >= 2
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE id = %s", [left_behind])
            assert cursor.fetchone() == (0,)

    def test_keeps_a_job_that_failed(self, engine: FakeEngine) -> None:
        serve(engine, sampler())
        engine.enqueue(["three texts", "where four", "were asked"])
        job = tasks.pairs_top_up.defer()

        run_worker()

        assert state_of(job) == "failed"
