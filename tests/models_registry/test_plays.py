from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import connection, connections
from django.utils import timezone
from procrastinate.contrib.django import app

from models_registry import play_queries, plays, serving, tasks
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import (
    EngineFailed,
    EngineModelUnknown,
    EngineRejected,
    EngineUnreachable,
    Sampling,
)
from models_registry.models import Alias, ModelVersion, Play
from tests import factories

NOW = timezone.now()
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=64)

pytestmark = pytest.mark.django_db


class Ground:
    """A model with v0 and a loaded v1, an engine that serves both, and an admin who plays."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.v1: ModelVersion = factories.ModelVersionFactory.create(adapter=True)
        self.model = self.v1.model
        self.v0 = self.model.versions.get(number=0)
        self.admin: User = factories.UserFactory.create(is_staff=True)
        self.engine = FakeEngine(base=self.v0.served_name)
        self.load(self.v1)

    def load(self, version: ModelVersion) -> None:
        self.engine.adapters[version.served_name] = f"/versions/{version.pk}"
        factories.ServingFactory.create(version=version, engine=self.url, loaded_at=NOW)

    def ask(self, question: str = "Who?", **given: Any) -> Play:
        play, _ = plays.play_ask(
            **{
                "model": self.model,
                "by": self.admin,
                "uuid": uuid4(),
                "messages": [{"role": "user", "content": question}],
                "versions": (self.v1, self.v0),
                "is_blind": True,
                "sampling": SAMPLING,
                "chance": random.Random(0),
            }
            | given
        )
        return play

    def answer(self, minutes: int = 0) -> None:
        plays.plays_answer(engine=self.engine, now=lambda: NOW + timedelta(minutes=minutes))


@pytest.fixture
def ground(settings, no_jobs: None) -> Ground:
    return Ground(settings.ENGINE_URL)


def jobs_queued() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE task_name LIKE '%plays_answer'"
        )
        (count,) = cursor.fetchone()
    return int(count)


class TestPlayAsk:
    def test_notes_the_question_and_queues_a_job(self, ground: Ground) -> None:
        play = ground.ask("Who sings?")

        play.refresh_from_db()
        assert (play.question, play.system, play.state) == ("Who sings?", "", "waiting")
        assert play.sampling == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64}
        assert set(play.versions) == {ground.v0, ground.v1}
        assert jobs_queued() == 1

    def test_lets_chance_decide_the_sides(self, ground: Ground) -> None:
        lefts = set()
        for seed in range(10):
            play = ground.ask(chance=random.Random(seed))
            lefts.add(play.left_version)
            play.delete()

        assert lefts == {ground.v0, ground.v1}

    def test_is_the_same_question_when_sent_twice(self, ground: Ground) -> None:
        uuid = uuid4()

        assert ground.ask(uuid=uuid) == ground.ask(uuid=uuid)

        assert Play.objects.count() == 1

    @pytest.mark.django_db(transaction=True)
    def test_is_asked_once_by_two_requests_at_once(self, ground: Ground) -> None:
        uuid, barrier = uuid4(), threading.Barrier(2)

        def ask(_: int) -> UUID:
            barrier.wait()
            try:
                return ground.ask(uuid=uuid).pk
            finally:
                connections.close_all()

        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(ask, range(2))) == {uuid}

        assert Play.objects.count() == 1

    @pytest.mark.parametrize(
        "other",
        [
            lambda: {"by": factories.UserFactory.create(is_staff=True)},
            lambda: {"messages": [{"role": "user", "content": "Another?"}]},
        ],
        ids=["of somebody else", "with another text"],
    )
    def test_refuses_the_id_of_another_question(
        self, ground: Ground, other: Callable[[], dict[str, Any]]
    ) -> None:
        play = ground.ask()

        with pytest.raises(plays.UuidTaken):
            ground.ask(uuid=play.uuid, **other())

    def test_refuses_the_sixth_that_waits(self, ground: Ground) -> None:
        for _ in range(plays.MOST_WAITING):
            ground.ask()

        with pytest.raises(plays.TooManyWaiting):
            ground.ask()
        # Somebody else's five are their own, and an answer makes room.
        ground.ask(by=factories.UserFactory.create(is_staff=True))
        ground.answer()
        ground.ask()

    def test_refuses_one_version_twice(self, ground: Ground) -> None:
        with pytest.raises(plays.VersionTwice):
            ground.ask(versions=(ground.v1, ground.v1))

    def test_refuses_a_version_that_is_not_verified(self, ground: Ground) -> None:
        ground.v1.state = "retired"

        with pytest.raises(plays.VersionUnplayable, match="v1 is retired"):
            ground.ask()


class TestPlaysAnswer:
    def test_asks_both_versions_the_same(self, ground: Ground) -> None:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
        play = ground.ask(messages=messages)

        ground.answer()

        play.refresh_from_db()
        assert play.is_answered
        assert {model for model, _, _ in ground.engine.asked} == {
            ground.v0.served_name, ground.v1.served_name,
        }  # fmt: skip
        for _, asked, sampling in ground.engine.asked:
            assert list(asked) == messages
            assert sampling == SAMPLING
        assert play.answered_at == NOW

    def test_keeps_each_answer_on_its_side(self, ground: Ground) -> None:
        play = ground.ask()

        ground.answer()

        play.refresh_from_db()
        for version, text, tokens in (
            (play.left_version, play.left_text, play.left_tokens),
            (play.right_version, play.right_text, play.right_tokens),
        ):
            again = ground.engine.sample(
                model=version.served_name, messages=play.messages, sampling=SAMPLING
            )
            (completion,) = again.completions
            assert (text, tokens) == (completion.text, len(completion.token_ids))
        assert play.left_finish_reason == "stop"
        assert play.left_seconds is not None

    def test_answers_more_than_one_batch(self, ground: Ground) -> None:
        asked = [ground.ask(f"Number {n}?") for n in range(plays.BATCH + 1)]

        ground.answer()

        states = Play.objects.filter(pk__in=[play.pk for play in asked])
        assert set(states.values_list("state", flat=True)) == {"answered"}

    def test_leaves_the_engine_alone_when_nothing_waits(self, ground: Ground) -> None:
        ground.answer()

        assert ground.engine.asked == []

    def test_waits_for_an_engine_that_is_down_and_answers_when_it_is_back(
        self, ground: Ground
    ) -> None:
        play = ground.ask()
        ground.engine.up = False

        for _ in range(plays.MOST_TRIES + 1):
            ground.answer()

        play.refresh_from_db()
        assert (play.state, play.tries) == ("waiting", 0)
        ground.engine.up = True
        ground.answer()
        play.refresh_from_db()
        assert play.is_answered

    def test_counts_no_try_when_the_engine_goes_down_while_it_answers(self, ground: Ground) -> None:
        play = ground.ask()

        for _ in range(plays.MOST_TRIES):
            ground.engine.enqueue(EngineUnreachable(), EngineUnreachable())
            ground.answer()

        play.refresh_from_db()
        assert (play.state, play.tries) == ("waiting", 0)

    def test_waits_for_a_version_that_is_not_loaded_and_lets_others_pass(
        self, ground: Ground
    ) -> None:
        v2 = factories.ModelVersionFactory.create(
            adapter=True, model=ground.model, number=2, parent=ground.v1
        )
        waits, passes = ground.ask(versions=(v2, ground.v0)), ground.ask()

        ground.answer()

        waits.refresh_from_db()
        passes.refresh_from_db()
        assert (waits.state, passes.state) == ("waiting", "answered")
        assert play_queries.versions_unloaded(waits) == [v2, ground.v0]
        ground.load(v2)
        ground.answer()
        waits.refresh_from_db()
        assert waits.is_answered

    def test_does_not_ask_a_version_that_is_listed_but_unchecked(self, ground: Ground) -> None:
        play = ground.ask()
        ground.v1.servings.update(loaded_at=None)

        ground.answer()

        play.refresh_from_db()
        assert play.is_waiting
        assert ground.engine.asked == []

    def test_tries_again_when_the_engine_stumbles_but_not_for_ever(self, ground: Ground) -> None:
        play = ground.ask()
        ground.engine.enqueue(EngineFailed("Out of memory."), EngineFailed("Out of memory."))

        ground.answer()

        play.refresh_from_db()
        assert (play.state, play.tries) == ("waiting", 1)
        ground.engine.enqueue(*[EngineFailed("Out of memory.")] * 4)
        ground.answer()
        ground.answer()
        play.refresh_from_db()
        assert play.has_failed
        assert "Out of memory." in play.failure

    def test_fails_at_once_when_the_engine_refuses_the_question(self, ground: Ground) -> None:
        play = ground.ask()
        ground.engine.enqueue(*[EngineRejected("Too many tokens.")] * 2)

        ground.answer()

        play.refresh_from_db()
        assert play.has_failed
        assert play.failure.startswith("Too many tokens. Shorten")

    def test_asks_again_when_the_engine_was_started_anew_in_between(self, ground: Ground) -> None:
        play = ground.ask()
        ground.engine.enqueue(*[EngineModelUnknown("It does not exist.")] * 2)

        ground.answer()
        ground.answer()

        play.refresh_from_db()
        assert play.is_answered

    def test_fails_with_what_the_check_found(self, ground: Ground) -> None:
        play = ground.ask()
        ground.v1.servings.update(loaded_at=None, canary={"passed": False, "note": "Off by half."})

        ground.answer()

        play.refresh_from_db()
        assert play.has_failed
        assert "Off by half." in play.failure

    def test_fails_when_a_version_was_retired(self, ground: Ground) -> None:
        play = ground.ask()
        ModelVersion.objects.filter(pk=ground.v1.pk).update(state="retired")

        ground.answer()

        play.refresh_from_db()
        assert play.failure == "v1 is retired by now. Ask another version."

    def test_leaves_the_questions_to_the_engine_that_serves_their_model(
        self, ground: Ground
    ) -> None:
        play = ground.ask()

        plays.plays_answer(engine=FakeEngine(base="pl-0-00000000"), now=lambda: NOW)
        play.refresh_from_db()
        assert play.is_waiting

        ground.answer()
        play.refresh_from_db()
        assert play.is_answered

    def test_gives_up_after_a_day(self, ground: Ground) -> None:
        play = ground.ask()
        ground.engine.up = False

        ground.answer(minutes=23 * 60)
        play.refresh_from_db()
        assert play.is_waiting
        ground.answer(minutes=25 * 60)

        play.refresh_from_db()
        assert play.has_failed

    def test_keeps_what_postgresql_cannot_store(self, ground: Ground) -> None:
        play = ground.ask()
        ground.engine.enqueue(["a\0b"], ["a\0b"])

        ground.answer()

        play.refresh_from_db()
        assert play.left_text == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.django_db(transaction=True)
class TestJob:
    def run_worker(self) -> None:
        with app.replace_connector(app.connector.get_worker_connector()) as worker:
            worker.run_worker(wait=False, install_signal_handlers=False, listen_notify=False)

    @pytest.fixture
    def _engine(self, ground: Ground, monkeypatch, settings) -> None:
        settings.MODELS = [ground.model.slug, "another"]

        @contextmanager
        def opened(url: str) -> Iterator[FakeEngine]:
            yield ground.engine if url == ground.url else FakeEngine(base="pl-0-00000000")

        monkeypatch.setattr(serving, "engine", opened)

    @pytest.mark.usefixtures("_engine")
    def test_answers_what_was_asked(self, ground: Ground) -> None:
        play = ground.ask()

        self.run_worker()

        play.refresh_from_db()
        assert play.is_answered

    @pytest.mark.usefixtures("_engine")
    def test_finds_what_a_killed_worker_has_left(self, ground: Ground) -> None:
        play = ground.ask()
        with connection.cursor() as cursor:
            # As such a job stays behind: it holds no lock that the next one would need.
            cursor.execute("UPDATE procrastinate_jobs SET status = 'doing'")

        tasks.plays_answer()

        play.refresh_from_db()
        assert play.is_answered


class TestPlayPick:
    def test_is_kept_with_the_time(self, ground: Ground) -> None:
        play = factories.PlayFactory.create(answered=True, asked_by=ground.admin)

        picked = plays.play_pick(play=play, by=ground.admin, pick="left", now=NOW)

        assert (picked.pick, picked.picked_at) == ("left", NOW)
        assert picked.winner == play.left_version
        assert picked.is_revealed

    def test_changes_nothing_when_repeated_and_stands_otherwise(self, ground: Ground) -> None:
        play = factories.PlayFactory.create(answered=True, asked_by=ground.admin)
        plays.play_pick(play=play, by=ground.admin, pick="equal", now=NOW)

        again = plays.play_pick(
            play=play, by=ground.admin, pick="equal", now=NOW + timedelta(hours=1)
        )

        assert again.picked_at == NOW
        with pytest.raises(plays.PickedAlready):
            plays.play_pick(play=play, by=ground.admin, pick="left", now=NOW)

    def test_is_the_askers_alone(self, ground: Ground) -> None:
        play = factories.PlayFactory.create(answered=True)

        with pytest.raises(plays.PickElsewhere):
            plays.play_pick(play=play, by=ground.admin, pick="left", now=NOW)

    def test_needs_answers(self, ground: Ground) -> None:
        play = factories.PlayFactory.create(asked_by=ground.admin)

        with pytest.raises(plays.NothingToPick):
            plays.play_pick(play=play, by=ground.admin, pick="left", now=NOW)

    def test_never_becomes_evidence_or_data(self, ground: Ground) -> None:
        factories.JudgementFactory.create(assignment__pair__prompt__model=ground.model)
        factories.OutcomeFactory.create(comparison__model=ground.model)
        before = rows_of_others()

        play = ground.ask()
        ground.answer()
        play = plays.play_pick(play=play, by=ground.admin, pick="left", now=NOW)

        assert play.winner is not None
        assert rows_of_others() == before


def rows_of_others() -> dict[str, list[dict[str, Any]]]:
    """Return every row of what Pairloop knows but of the playground."""
    return {
        model._meta.label: list(model._default_manager.order_by("pk").values())
        for label in ("models_registry", "annotate", "training")
        for model in apps.get_app_config(label).get_models()
        if model is not Play
    }


class TestPairDefault:
    def point(self, ground: Ground, name: str, version: ModelVersion) -> None:
        Alias.objects.update_or_create(model=ground.model, name=name, defaults={"version": version})

    def default(self, ground: Ground) -> list[str]:
        pair = play_queries.pair_default(play_queries.versions_playable(ground.model))
        return [version.label for version in pair or ()]

    def test_is_the_sampler_against_the_champion(self, ground: Ground) -> None:
        v2 = factories.ModelVersionFactory.create(
            adapter=True, model=ground.model, number=2, parent=ground.v1
        )
        self.point(ground, "sampler", v2)
        self.point(ground, "champion", ground.v1)

        assert self.default(ground) == ["v2", "v1"]

    def test_is_the_sampler_against_v0_when_it_is_the_champion(self, ground: Ground) -> None:
        self.point(ground, "sampler", ground.v1)
        self.point(ground, "champion", ground.v1)

        assert self.default(ground) == ["v1", "v0"]

    def test_is_the_newest_against_v0_when_v0_is_all_of_them(self, ground: Ground) -> None:
        assert self.default(ground) == ["v0", "v1"]

    def test_is_none_of_one_version(self) -> None:
        assert play_queries.pair_default([factories.ModelVersionFactory.create()]) is None


class TestTallies:
    def test_count_blind_picks_by_pair_whichever_side(self, ground: Ground) -> None:
        one = {"model": ground.model, "answered": True, "picked_at": NOW}
        other = one | {"left_version": ground.v0, "right_version": ground.v1}
        factories.PlayFactory.create(pick="left", **one)
        factories.PlayFactory.create(pick="right", **other)
        factories.PlayFactory.create(pick="left", **other)
        factories.PlayFactory.create(pick="equal", **one)
        factories.PlayFactory.create(pick="both_bad", **other)
        factories.PlayFactory.create(pick="left", is_blind=False, **one)
        factories.PlayFactory.create(model=ground.model, answered=True)

        (tally,) = play_queries.tallies_of(ground.model)

        assert (tally.newer, tally.older) == (ground.v1, ground.v0)
        assert (tally.newer_better, tally.older_better) == (2, 1)
        assert (tally.equal, tally.both_bad, tally.picks) == (1, 1, 5)


class TestAnswerSeconds:
    def test_is_a_guess_first_and_then_what_answers_took(self, ground: Ground) -> None:
        play = ground.ask()
        assert play_queries.answer_seconds(play) == play_queries.FIRST_ANSWER_S

        factories.PlayFactory.create(model=ground.model, answered=True)

        assert play_queries.answer_seconds(play) == round(3.5)
