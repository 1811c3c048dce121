from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from annotate import tasks
from pairloop.pages import health
from tests.factories import UserFactory
from tests.rules import execute

pytestmark = pytest.mark.django_db


class TestEngineState:
    @pytest.mark.parametrize(
        ("components", "state"),
        [
            ({}, "elsewhere"),
            ({"engine": {"state": "running"}}, "starting"),
            ({"engine": {"state": "failed"}}, "failed"),
            ({"engine": {"state": "ready"}}, "ready"),
        ],
    )
    def test_is_one_word(self, settings, tmp_path, components, state):
        settings.STATUS_FILE = tmp_path / "status.json"
        settings.ENGINE_IS_OURS = True
        settings.STATUS_FILE.write_text(json.dumps({"components": components}))

        assert health.engine_state() == state


class TestReadyz:
    def test_is_ready_without_a_login(self, client):
        response = client.get("/readyz")

        assert response.status_code == 200
        assert response.json()["ready"] is True

    @pytest.mark.django_db(transaction=True)
    def test_is_not_ready_before_the_migrations(self, client):
        call_command("migrate", "sessions", "zero", verbosity=0)
        try:
            response = client.get("/readyz")
        finally:
            call_command("migrate", verbosity=0)

        assert response.status_code == 503
        assert response.json()["code"] == "migrations_missing"
        assert "manage.py migrate" in response.json()["detail"]

    @pytest.mark.django_db(transaction=True)
    def test_is_not_ready_without_the_database(self, client):
        connection.close()
        host = connection.settings_dict["HOST"]
        connection.settings_dict["HOST"] = "/nowhere"
        try:
            response = client.get("/readyz")
        finally:
            connection.settings_dict["HOST"] = host
            connection.close()

        assert response.status_code == 503
        assert response.json()["ready"] is False
        assert response.json()["code"] == "database_not_ready"
        assert "/nowhere" not in response.text

    @pytest.mark.parametrize("is_staff", [False, True])
    def test_keeps_figures_for_staff(self, client, is_staff):
        client.force_login(UserFactory(is_staff=is_staff))

        found = client.get("/readyz").json()

        names = {"database", "queue", "workers", "engine", "disk"}
        assert set(found["checks"]) == names
        assert set(found["checks"].values()) <= {"ok", "not ok"}
        assert ("details" in found) is is_staff

    def test_is_ready_without_engine_and_workers(self, client, settings, tmp_path, no_jobs):
        settings.STATUS_FILE = tmp_path / "status.json"
        settings.STATUS_FILE.write_text('{"components": {"engine": {"state": "failed"}}}')
        execute("DELETE FROM procrastinate_workers")

        response = client.get("/readyz")

        assert response.status_code == 200
        assert response.json()["checks"] | {"disk": "ok"} == {
            "database": "ok", "queue": "ok", "workers": "not ok", "engine": "not ok", "disk": "ok",
        }  # fmt: skip


class TestChecks:
    """What a part says, and when it is not well."""

    def check(self, name):
        return next(check for check in health.checks() if check.name == name)

    @pytest.mark.parametrize(("seconds", "is_ok"), [(30, True), (900, False)])
    def test_queue_tells_how_long_the_oldest_job_waits(self, no_jobs, seconds, is_ok):
        past = timezone.now() - timedelta(seconds=seconds)
        tasks.leases_release.configure(schedule_at=past).defer()
        tasks.leases_release.configure(
            queueing_lock="later", schedule_at=timezone.now() + timedelta(hours=1)
        ).defer()

        found = self.check("queue")

        assert found.is_ok is is_ok
        assert found.detail["default"]["jobs"] == 1
        assert found.detail["default"]["oldest_s"] == pytest.approx(seconds, abs=5)

    def test_queue_lets_rounds_wait_for_each_other(self, no_jobs):
        past = timezone.now() - timedelta(hours=3)
        tasks.leases_release.configure(queue="train", schedule_at=past).defer()

        assert self.check("queue").is_ok

    @pytest.mark.parametrize(("seconds", "is_ok"), [(5, True), (300, False)])
    def test_workers_are_known_by_their_heartbeat(self, seconds, is_ok):
        execute("DELETE FROM procrastinate_workers")
        execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => %s))",
            seconds,
        )

        found = self.check("workers")

        assert found.is_ok is is_ok
        assert found.detail["last_heartbeat_s"] == pytest.approx(seconds, abs=5)

    def test_workers_include_a_trainer_that_was_given_up(self, settings, tmp_path):
        settings.STATUS_FILE = tmp_path / "status.json"
        settings.STATUS_FILE.write_text('{"components": {"trainer": {"state": "failed"}}}')
        execute("INSERT INTO procrastinate_workers DEFAULT VALUES")

        assert not self.check("workers").is_ok

    def test_disk_is_not_well_below_what_a_start_needs(self, monkeypatch):
        monkeypatch.setattr(health, "LEAST_FREE", 1 << 60)

        assert not self.check("disk").is_ok
