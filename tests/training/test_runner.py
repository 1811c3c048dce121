from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from models_registry.models import ModelVersion
from tests.training.conftest import judge
from tests.training.scripted import GOOD
from training import actions, runner
from training.models import Round, RoundAttempt, RoundMetric

pytestmark = pytest.mark.django_db


@pytest.fixture
def round_(model, quick) -> Round:
    """A round that waits for its trainer."""
    judge(model, count=2)
    return actions.round_start(model=model, by=None, now=timezone.now())


def run(round_: Round, *, should_stop=lambda: False) -> Round:
    runner.round_run(round_id=round_.pk, worker="here", should_stop=should_stop)
    round_.refresh_from_db()
    return round_


class TestRoundRun:
    def test_makes_a_version_of_what_the_trainer_made(self, round_, script, places):
        script(GOOD)

        run(round_)

        assert round_.state == Round.State.EVALUATING
        version = round_.version
        assert version.card == "# A version\n"
        assert version.metrics["training"] == {"loss": 0.4}
        assert (places / "versions" / version.artifact_path / "adapter_config.json").exists()
        attempt = round_.attempts.get()
        assert (attempt.outcome, attempt.progress) == ("published", 1)
        losses = RoundMetric.objects.filter(name="loss").order_by("step")
        assert [round(metric.value, 2) for metric in losses] == [0.6, 0.5, 0.4]

    def test_gives_the_trainer_what_it_needs_and_nothing_else(self, round_, script, monkeypatch):
        monkeypatch.setenv("PAIRLOOP_SECRET_KEY", "not for the trainer")
        script('(folder / "env.json").write_text(json.dumps(dict(os.environ)))\n' + GOOD)

        run(round_)

        folder = runner.attempt_folder(round_.attempts.get())
        environment = json.loads((folder / "env.json").read_text())
        assert not any("not for" in value for value in environment.values())
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert len((folder / "snapshot.jsonl").read_text().splitlines()) == 2

    def test_fails_for_the_reason_that_the_trainer_names(self, round_, script):
        script('end(outcome="failed", code="loss_not_finite", detail="The loss is not a number.")')

        run(round_)

        assert (round_.state, round_.failure_code) == (Round.State.FAILED, "loss_not_finite")
        assert round_.failure == "The loss is not a number."
        assert round_.attempts.count() == 1

    def test_tries_again_from_the_checkpoint_when_the_trainer_was_killed(
        self, round_, script, places
    ):
        script("step(1)\ncheckpoint(1)\nos.kill(os.getpid(), signal.SIGKILL)")
        run(round_)
        assert round_.state == Round.State.RUNNING
        assert round_.attempts.get().failure == "It ended with signal 9."

        script('assert (checkpoints / "step-000001").is_dir()\n' + GOOD)
        run(round_)

        assert round_.state == Round.State.EVALUATING
        assert ModelVersion.objects.filter(number__gt=0).count() == 1
        assert [a.outcome for a in round_.attempts.order_by("number")] == ["failed", "published"]

    def test_says_what_a_trainer_said_last_that_just_ends(self, round_, script):
        script('sys.exit("No module named torch")')

        for _ in range(3):
            run(round_)

        assert round_.state == Round.State.FAILED
        assert "No module named torch" in round_.failure

    def test_does_nothing_when_somebody_else_is_at_it(self, round_, script):
        script(GOOD)
        actions.attempt_begin(round_id=round_.pk, worker="there")

        run(round_)

        assert round_.state == Round.State.RUNNING
        assert not ModelVersion.objects.filter(number__gt=0).exists()

    def test_stops_the_trainer_at_a_checkpoint_when_the_worker_is_stopped(self, round_, script):
        script(
            "def stop(*_):\n    checkpoint(1)\n    sys.exit(75)\n"
            "signal.signal(signal.SIGTERM, stop)\n(folder / 'ready').touch()\ntime.sleep(60)"
        )

        def should_stop() -> bool:
            return (
                runner.actions.round_folder(round_.model.slug, 1) / "attempt-1" / "ready"
            ).exists()

        run(round_, should_stop=should_stop)

        attempt = round_.attempts.get()
        assert (round_.state, attempt.outcome) == (Round.State.RUNNING, "lost")
        assert (runner.attempt_folder(attempt) / "checkpoints" / "step-000001").is_dir()
        # It can be taken over at once, not only when the lease would have ended.
        assert actions.attempt_begin(round_id=round_.pk, worker="there")

    def test_kills_the_trainer_within_seconds_when_the_round_is_cancelled(self, round_, script):
        script("(folder / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)")

        def cancel_when_it_runs() -> bool:
            if (runner.attempt_folder(RoundAttempt.objects.get()) / "pid").exists():
                Round.objects.filter(pk=round_.pk, state="running").update(state="cancelled")
                RoundAttempt.objects.filter(outcome="").update(outcome="cancelled")
            return False

        began = time.monotonic()
        run(round_, should_stop=cancel_when_it_runs)

        assert time.monotonic() - began < 20
        pid = int((runner.attempt_folder(RoundAttempt.objects.get()) / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert round_.state == Round.State.CANCELLED

    def test_throws_away_what_was_made_under_a_lost_lease(self, round_, script, settings):
        """F04: a worker that slept too long wakes up and finds the round taken."""
        # Long enough to be looked at while it runs.
        script(f"time.sleep(1)\n{GOOD}")

        def lose() -> bool:
            if RoundAttempt.objects.filter(round=round_).count() == 1:
                RoundAttempt.objects.update(outcome="lost")
                actions.attempt_begin(round_id=round_.pk, worker="there")
            return False

        run(round_, should_stop=lose)

        assert round_.version is None
        assert [a.outcome for a in round_.attempts.order_by("number")] == ["lost", ""]

    def test_refuses_an_adapter_that_vllm_would_not_load(self, round_, script):
        script(GOOD.replace("version()\n", "version()\n(folder / 'version' / 'x.bin').touch()\n"))

        run(round_)

        assert (round_.state, round_.failure_code) == (Round.State.FAILED, "artifact_files_wrong")
        assert not ModelVersion.objects.filter(number__gt=0).exists()

    def test_ends_with_a_sentence_when_the_interpreter_stays_away(self, round_, settings, places):
        settings.ML_PYTHON = places / "nowhere"

        # It may be on its way: the environment is being set up again.
        run(round_)
        assert round_.is_open

        run(round_)
        run(round_)
        assert "nowhere does not start" in round_.failure

    def test_takes_no_strangers_result_for_its_own(self, round_, script, places):
        """A state folder may be older than the database beside it, say after a restore."""
        strange = actions.round_folder(round_.model.slug, 1) / "attempt-1"
        strange.mkdir()
        (strange / "result.json").write_text('{"outcome": "done"}')
        (strange / "events.jsonl").write_text('{"event": "step", "step": 9, "loss": 9.0}\n')
        script(GOOD)

        run(round_)

        assert round_.state == Round.State.EVALUATING
        assert not RoundMetric.objects.filter(step=9).exists()

    def test_keeps_no_checkpoints_of_what_became_a_version(self, round_, script):
        script("checkpoint(1)\n" + GOOD)

        run(round_)

        assert not (runner.attempt_folder(round_.attempts.get()) / "checkpoints").exists()


@pytest.mark.django_db(transaction=True)
class TestRoundRunWhileTheDatabaseIsAway:
    def test_goes_on_when_its_connection_is_cut(self, round_, script):
        """F07: every connection of the application is ended in mid-training."""
        script("(folder / 'ready').touch()\ntime.sleep(1.5)\n" + GOOD)
        ready = runner.actions.round_folder(round_.model.slug, 1) / "attempt-1" / "ready"

        def cut() -> None:
            while not ready.exists():
                time.sleep(0.02)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            connection.close()

        thread = threading.Thread(target=cut)
        thread.start()
        run(round_)
        thread.join()

        assert round_.state == Round.State.EVALUATING
        assert ModelVersion.objects.filter(number__gt=0).count() == 1


class TestEvents:
    def test_reads_whole_lines_only(self, tmp_path: Path):
        path = tmp_path / "events.jsonl"
        events = runner.Events(path)
        assert events.new() == []

        path.write_text('{"event": "start"}\n{"event": "st')
        assert events.new() == [{"event": "start"}]

        with path.open("a") as file:
            file.write('ep"}\nnonsense\n[]\n')
        assert events.new() == [{"event": "step"}]
        assert events.new() == []
