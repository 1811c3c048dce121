from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from django.utils import timezone

from models_registry import queries, serving
from models_registry.engine.fake import FakeEngine
from models_registry.models import Alias, RegisteredModel
from tests import factories

Write = Callable[..., None]


@pytest.fixture
def start(settings, tmp_path: Path) -> Write:
    """Return a writer of what the supervisor says about its components."""
    settings.STATUS_FILE = tmp_path / "status.json"
    settings.ENGINE_IS_OURS = True

    def write(**components: object) -> None:
        settings.STATUS_FILE.write_text(json.dumps({"components": components}))

    return write


class TestEngineProgress:
    def test_shows_the_stages_in_their_order_and_no_other_component(self, start: Write) -> None:
        start(
            web={"state": "ready"},
            engine={"state": "waiting"},
            base={"state": "running", "detail": "Hashing."},
            environment={"state": "done"},
        )

        progress = queries.engine_progress("demo")

        assert [(stage.title, stage.state, stage.detail) for stage in progress.stages] == [
            ("Set up the model environment", "done", ""),
            ("Prepare the base model", "running", "Hashing."),
            ("Start vLLM", "waiting", ""),
        ]
        assert not progress.is_ready
        assert progress.failed is None

    @pytest.mark.parametrize(
        ("word", "state"),
        [
            ("ready", "done"),
            ("done", "done"),
            ("running", "running"),
            ("failed", "failed"),
            ("stopped", "failed"),
            ("pending", "waiting"),
            ("a word of a later version", "waiting"),
            (None, "waiting"),
        ],
    )
    def test_translates_the_supervisors_words(self, start: Write, word: object, state: str) -> None:
        start(engine={"state": word})

        (stage,) = queries.engine_progress("demo").stages

        assert stage.state == state
        assert stage.is_running == (state == "running")
        assert stage.is_done == (state == "done")
        assert stage.has_failed == (state == "failed")

    def test_names_the_stage_that_failed(self, start: Write) -> None:
        start(environment={"state": "done"}, engine={"state": "failed", "detail": "No memory."})

        failed = queries.engine_progress("demo").failed

        assert failed is not None
        assert (failed.title, failed.detail) == ("Start vLLM", "No memory.")

    def test_is_ready_when_every_stage_is_over(self, start: Write) -> None:
        start(environment={"state": "done"}, engine={"state": "ready"})

        assert queries.engine_progress("demo").is_ready

    @pytest.mark.parametrize("text", [None, "", '{"components": {"eng', "[]", "\x00", "{}"])
    def test_shows_nothing_where_nothing_can_be_read(
        self, start: Write, settings, text: str | None
    ) -> None:
        if text is not None:
            settings.STATUS_FILE.write_text(text)

        assert queries.engine_progress("demo").stages == ()

    def test_survives_bytes_that_are_no_text(self, start: Write, settings) -> None:
        settings.STATUS_FILE.write_bytes(b"\xff\xfe{}")

        assert queries.engine_progress("demo").stages == ()


class TestEngineProgressOfSeveral:
    """Each model of PAIRLOOP_MODEL has a base and an engine of its own."""

    def test_shows_the_models_own_parts(self, start: Write, settings) -> None:
        settings.MODELS = ["demo", "mine"]
        start(
            environment={"state": "done"},
            engine={"state": "ready"},
            **{"base-mine": {"state": "done"}, "engine-mine": {"state": "running"}},
        )

        assert queries.engine_progress("demo").is_ready
        mine = queries.engine_progress("mine")
        assert [stage.state for stage in mine.stages] == ["done", "done", "running"]

    def test_says_how_to_serve_one_that_it_was_not_started_for(self, start: Write) -> None:
        start(engine={"state": "ready"})

        failed = queries.engine_progress("mine").failed

        assert failed is not None
        assert "PAIRLOOP_MODEL=demo,mine make run" in failed.detail


@pytest.mark.django_db
class TestEngineProgressElsewhere:
    @pytest.fixture
    def elsewhere(self, start: Write, settings, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
        """Return the engine that somebody else runs; an earlier start of ours says nothing about it."""
        start(engine={"state": "failed"})
        settings.ENGINE_IS_OURS = False
        version = factories.ModelVersionFactory.create()
        settings.MODELS = [version.model.slug]
        engine = FakeEngine(base=version.served_name)
        monkeypatch.setattr(serving, "engine", lambda url, timeout: nullcontext(engine))
        return engine

    def test_is_ready_when_it_serves_the_model(self, elsewhere: FakeEngine, settings) -> None:
        assert queries.engine_progress(settings.MODELS[0]).is_ready

    def test_goes_on_asking_when_it_does_not_answer(self, elsewhere: FakeEngine, settings) -> None:
        elsewhere.up = False

        progress = queries.engine_progress(settings.MODELS[0])

        assert progress.failed is None
        assert progress.seconds_left is None
        assert "Check PAIRLOOP_ENGINE_URL" in progress.stages[0].detail

    def test_fails_when_it_serves_something_else(self, elsewhere: FakeEngine, settings) -> None:
        elsewhere.base = "other"

        failed = queries.engine_progress(settings.MODELS[0]).failed

        assert failed is not None
        assert "manage.py engine_command" in failed.detail


class TestSecondsLeft:
    @pytest.mark.parametrize(
        ("component", "seconds"),
        [
            ({"state": "ready", "expected_s": 60}, 0),
            ({"state": "waiting", "expected_s": 60}, 60),
            ({"state": "waiting", "expected_s": 59.6}, 60),
            # Waiting for its turn: its time has not begun, whenever it was announced.
            ({"state": "waiting", "expected_s": 60, "since": -50}, 60),
            ({"state": "running", "expected_s": 600, "since": -200}, 400),
            ({"state": "running", "expected_s": 600}, 600),
            ({"state": "running", "expected_s": 60, "since": -3600}, 1),
            ({"state": "running"}, None),
            ({"state": "running", "expected_s": None, "since": -5}, None),
            ({"state": "running", "expected_s": "soon"}, None),
            ({"state": "running", "expected_s": 60, "since": "yesterday"}, 60),
        ],
    )
    def test_is_what_is_expected_less_what_was_spent(
        self, start: Write, component: dict[str, object], seconds: int | None
    ) -> None:
        if isinstance(component.get("since"), int):
            component = component | {"since": time.time() + component["since"]}
        start(engine=component)

        (stage,) = queries.engine_progress("demo").stages

        # A second may pass between looking at the clock here and there.
        assert stage.seconds_left == (pytest.approx(seconds, abs=1) if seconds else seconds)

    def test_adds_up_over_what_is_left(self, start: Write) -> None:
        start(
            environment={"state": "done", "expected_s": 300},
            base={"state": "waiting", "expected_s": 20},
            engine={"state": "waiting", "expected_s": 90},
        )

        assert queries.engine_progress("demo").seconds_left == 110

    def test_is_unknown_when_one_of_the_stages_is(self, start: Write) -> None:
        start(base={"state": "waiting"}, engine={"state": "waiting", "expected_s": 90})

        assert queries.engine_progress("demo").seconds_left is None

    def test_is_nothing_when_nothing_is_left(self, start: Write) -> None:
        start(engine={"state": "ready"})

        assert queries.engine_progress("demo").seconds_left is None


@pytest.mark.django_db
class TestModelsOf:
    def test_shows_a_labeler_their_own(self) -> None:
        membership = factories.MembershipFactory.create()
        other = factories.MembershipFactory.create()

        assert list(queries.models_of(membership.user)) == [membership.model]
        assert list(queries.models_of(other.user)) == [other.model]
        assert list(queries.models_of(factories.UserFactory.create())) == []

    def test_shows_an_admin_all_of_them_in_order_of_their_making(self) -> None:
        first = factories.RegisteredModelFactory.create()
        membership = factories.MembershipFactory.create(user__is_staff=True)

        assert list(queries.models_of(membership.user)) == [first, membership.model]


@pytest.mark.django_db
class TestModelOf:
    def test_returns_a_members_model(self) -> None:
        membership = factories.MembershipFactory.create()

        found = queries.model_of(user=membership.user, slug=membership.model.slug)

        assert found == membership.model

    @pytest.mark.parametrize("is_member_elsewhere", [True, False])
    def test_hides_a_foreign_one(self, is_member_elsewhere: bool) -> None:
        user = factories.UserFactory.create()
        if is_member_elsewhere:
            factories.MembershipFactory.create(user=user)
        foreign = factories.RegisteredModelFactory.create()

        with pytest.raises(RegisteredModel.DoesNotExist):
            queries.model_of(user=user, slug=foreign.slug)

    def test_shows_an_admin_any(self) -> None:
        admin = factories.UserFactory.create(is_staff=True)
        foreign = factories.RegisteredModelFactory.create()

        assert queries.model_of(user=admin, slug=foreign.slug) == foreign


@pytest.mark.django_db
class TestModelAnnounced:
    def test_is_the_one_of_that_name(self) -> None:
        model = factories.RegisteredModelFactory.create()

        assert queries.model_announced(model.slug) == model

    def test_is_none_before_it_is_announced(self) -> None:
        assert queries.model_announced("demo") is None


@pytest.mark.django_db
class TestBaseVersion:
    def test_is_v0(self) -> None:
        version = factories.ModelVersionFactory.create(adapter=True)

        assert queries.base_version(version.model.slug) == version.parent

    def test_is_none_before_the_base_is_in_the_store(self) -> None:
        assert queries.base_version("demo") is None


@pytest.mark.django_db
class TestModelsReady:
    def test_leaves_out_what_is_being_prepared_and_what_failed(self) -> None:
        ready = factories.RegisteredModelFactory.create()
        for state in ("preparing", "failed"):
            factories.RegisteredModelFactory.create(state=state, sampler=None, champion=None)

        assert queries.models_ready() == [ready]


@pytest.mark.django_db
class TestModelsServed:
    def test_finds_models_by_their_samplers_served_name(self) -> None:
        served, _other = (factories.ModelVersionFactory.create() for _ in range(2))

        assert queries.models_served([served.served_name, "pl-0-elsewhere"]) == [served.model]

    def test_ignores_a_version_that_samples_no_longer(self) -> None:
        version = factories.ModelVersionFactory.create(adapter=True)
        Alias.objects.filter(model=version.model, name="sampler").update(version=version)

        assert queries.models_served([version.parent.served_name]) == []

    def test_takes_an_adapter_only_once_it_was_checked_in_our_engine(self, settings) -> None:
        version = factories.ModelVersionFactory.create(adapter=True)
        Alias.objects.filter(model=version.model, name="sampler").update(version=version)
        serving = factories.ServingFactory.create(version=version, engine="http://another:8000")
        factories.ServingFactory.create(version=version, engine=settings.ENGINE_URL)
        serving.loaded_at = timezone.now()
        serving.save()
        assert queries.models_served([version.served_name]) == []

        version.servings.update(loaded_at=timezone.now())

        assert queries.models_served([version.served_name]) == [version.model]

    def test_finds_none_when_nothing_is_served(self) -> None:
        factories.ModelVersionFactory.create()

        assert queries.models_served([]) == []


@pytest.mark.django_db
class TestVersionOfAlias:
    def test_follows_the_alias_of_this_model(self) -> None:
        version, _other = (factories.ModelVersionFactory.create() for _ in range(2))

        assert queries.version_of_alias(model=version.model, name="sampler") == version

    def test_raises_before_the_model_is_ready(self) -> None:
        model = factories.RegisteredModelFactory.create(
            state="preparing", sampler=None, champion=None
        )

        with pytest.raises(Alias.DoesNotExist):
            queries.version_of_alias(model=model, name="sampler")
