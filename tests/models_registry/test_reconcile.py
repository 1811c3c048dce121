"""Adapters on their way into an engine: checked, reloaded after a restart, condemned when damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models_registry import actions, queries, serving, store, tasks
from models_registry.engine import types
from models_registry.engine.fake import FakeEngine
from models_registry.models import Alias, AliasMove, ModelVersion, RegisteredModel, Serving
from tests import factories
from tests.models_registry.adapters import ROWS, adapter_make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
#: A change that fp32 cannot show.
NOTHING = [row | {"adapter": [n + 1e-6 for n in row["base"]]} for row in ROWS]


class Loop:
    """A model, its engine, and a way to make versions of it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.model: RegisteredModel = factories.RegisteredModelFactory.create()
        self.base = self.model.versions.get()
        self.engine = FakeEngine(base=self.base.served_name)

    def register(self, **adapter: Any) -> ModelVersion:
        """Store an adapter and register it on top of the newest version."""
        parent = self.model.versions.order_by("-number")[0]
        staging = self.folder / f"round-{parent.number + 1}" / "version"
        given = {"content": bytes([parent.number])} | adapter
        artifact = store.artifact_store(adapter_make(staging, **given))
        return actions.version_register(
            model=self.model, parent=parent, artifact=artifact, metrics={}, card="", now=NOW
        )

    def verified(self) -> ModelVersion:
        version = self.register()
        self.reconcile()
        version.refresh_from_db()
        assert version.is_verified
        return version

    def reconcile(self, minutes: int = 0) -> None:
        now = NOW + timedelta(minutes=minutes)
        actions.engine_reconcile(engine=self.engine, engine_url=self.url, now=now)

    def promote(self, version: ModelVersion) -> None:
        admin = factories.UserFactory.create(is_staff=True)
        actions.version_promote(model=self.model, version=version, by=admin, reason="Won.", now=NOW)

    def settle(self) -> None:
        actions.sampler_settle(model=self.model, policy="latest", now=NOW)

    def at(self, name: str) -> ModelVersion:
        return Alias.objects.get(model=self.model, name=name).version

    def is_complete(self) -> bool:
        return queries.engine_is_complete(self.engine.models())

    def serving_of(self, version: ModelVersion) -> Serving:
        return Serving.objects.get(version=version, engine=self.url)


@pytest.fixture
def loop(settings, tmp_path: Path) -> Loop:
    settings.VERSIONS = tmp_path / "versions"
    return Loop(tmp_path, settings.ENGINE_URL)


class TestEngineReconcile:
    def test_loads_checks_and_verifies_what_is_registered(self, loop: Loop) -> None:
        version = loop.register()

        loop.reconcile()

        version.refresh_from_db()
        assert version.is_verified
        assert loop.engine.adapters == {version.served_name: str(store.path_of(version))}
        serving = loop.serving_of(version)
        assert serving.loaded_at == NOW
        assert serving.canary == {"passed": True, "effect": 0.5, "difference": 0.0, "note": ""}

    def test_keeps_since_when_the_base_is_served(self, loop: Loop) -> None:
        loop.reconcile()
        loop.reconcile(minutes=5)

        assert loop.serving_of(loop.base).loaded_at == NOW

    def test_does_everything_only_once(self, loop: Loop) -> None:
        version = loop.verified()

        # The fake fails a test that loads a name twice.
        loop.reconcile(minutes=5)

        assert loop.serving_of(version).loaded_at == NOW

    def test_goes_on_where_a_tick_was_cut_short_after_the_load(self, loop: Loop) -> None:
        version = loop.register()
        loop.engine.adapter_load(name=version.served_name, path=str(store.path_of(version)))

        loop.reconcile()

        version.refresh_from_db()
        assert version.is_verified

    def test_leaves_a_version_registered_whose_adapter_is_not_applied(self, loop: Loop) -> None:
        version = loop.register()
        loop.engine.ignores_adapters = True

        loop.reconcile()
        loop.settle()

        version.refresh_from_db()
        assert version.state == "registered"
        assert loop.at("sampler") == loop.base
        assert version.served_name not in loop.engine.models()
        serving = loop.serving_of(version)
        assert serving.loaded_at is None
        assert not serving.canary["passed"]
        assert serving.canary["difference"] == pytest.approx(0.5)
        # Nothing is left to wait for, so the engine counts as complete.
        assert loop.is_complete()

    def test_tries_what_failed_again_only_in_another_process(self, loop: Loop) -> None:
        version = loop.register()
        loop.engine.ignores_adapters = True
        loop.reconcile()
        loop.engine.ignores_adapters = False

        loop.reconcile()
        assert loop.engine.adapters == {}

        loop.engine.up = False
        loop.reconcile()
        loop.engine.up = True
        loop.engine.restart()
        loop.reconcile()

        version.refresh_from_db()
        assert version.is_verified

    def test_tries_what_failed_again_after_a_restart_that_nobody_saw(self, loop: Loop) -> None:
        loop.verified()
        broken = loop.register()
        loop.engine.ignores_adapters = True
        loop.reconcile()
        loop.engine.ignores_adapters = False
        # Something must be loaded, or nothing tells one process from the next.
        loop.promote(loop.model.versions.get(number=1))

        loop.engine.restart()
        loop.reconcile()

        broken.refresh_from_db()
        assert broken.is_verified

    def test_lets_an_adapter_pass_that_changes_nothing_and_says_so(self, loop: Loop) -> None:
        version = loop.register(rows=NOTHING)
        loop.engine.ignores_adapters = True

        loop.reconcile()

        version.refresh_from_db()
        assert version.is_verified
        assert loop.serving_of(version).canary["note"] == "indistinguishable from base"

    def test_loads_everything_again_after_a_restart_before_the_engine_is_complete(
        self, loop: Loop
    ) -> None:
        first = loop.verified()
        loop.promote(first)
        second = loop.verified()
        assert loop.is_complete()

        loop.engine.restart()

        assert not loop.is_complete()
        assert queries.versions_wanted(loop.engine.models()) == [second, first]
        loop.reconcile(minutes=5)
        assert loop.is_complete()
        assert set(loop.engine.adapters) == {first.served_name, second.served_name}
        assert loop.serving_of(first).loaded_at == NOW + timedelta(minutes=5)

    def test_is_not_complete_before_what_is_loaded_was_checked(self, loop: Loop) -> None:
        version = loop.register()

        loop.engine.adapter_load(name=version.served_name, path=str(store.path_of(version)))

        assert not loop.is_complete()

    def test_forgets_what_was_loaded_when_nobody_answers(self, loop: Loop) -> None:
        version = loop.verified()
        loop.engine.up = False

        loop.reconcile()

        assert loop.serving_of(version).loaded_at is None
        assert loop.serving_of(loop.base).loaded_at is None
        version.refresh_from_db()
        assert version.is_verified

    @pytest.mark.parametrize("error", [types.EngineTimeout(), types.EngineUnreachable()])
    def test_tries_again_when_the_engine_goes_away_in_between(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch, error: types.EngineError
    ) -> None:
        version = loop.register()

        with monkeypatch.context() as patched:
            patched.setattr(loop.engine, "score", raising(error))
            loop.reconcile()
        version.refresh_from_db()
        assert version.state == "registered"

        loop.reconcile()
        version.refresh_from_db()
        assert version.is_verified

    @pytest.mark.parametrize(
        ("error", "ticks"),
        # The engine's own trouble may pass; the third time it is the version's.
        [(types.EngineRejected("Rank."), 1), (types.EngineFailed("Rank."), 3)],
    )
    def test_keeps_why_a_living_engine_does_not_load_it(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch, error: types.EngineError, ticks: int
    ) -> None:
        version = loop.register()
        monkeypatch.setattr(loop.engine, "adapter_load", raising(error))
        for _ in range(ticks - 1):
            loop.reconcile()
            assert not loop.is_complete()

        loop.reconcile()

        assert loop.serving_of(version).canary["note"] == "Rank."
        assert loop.is_complete()

    def test_condemns_nothing_that_it_cannot_read(
        self, loop: Loop, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = loop.register()
        there = settings.VERSIONS
        settings.VERSIONS = loop.folder / "not-mounted"

        loop.reconcile()

        settings.VERSIONS = there
        loop.reconcile()
        version.refresh_from_db()
        assert version.is_verified

    def test_leaves_an_engine_alone_that_cannot_be_asked(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = loop.verified()
        monkeypatch.setattr(loop.engine, "models", raising(types.EngineTimeout()))

        loop.reconcile()

        assert loop.serving_of(version).loaded_at == NOW

    def test_loads_nothing_for_a_base_that_another_engine_serves(self, loop: Loop) -> None:
        loop.register()
        loop.engine.base = "other"

        loop.reconcile()

        assert loop.engine.adapters == {}
        assert loop.is_complete()


class TestSamplerOfARestartedEngine:
    @pytest.mark.parametrize("policy", ["latest", "champion"])
    def test_is_one_that_the_engine_computes_as_it_was_trained(
        self, loop: Loop, policy: str
    ) -> None:
        version = loop.verified()
        loop.promote(version)
        loop.settle()
        loop.engine.restart()
        loop.engine.ignores_adapters = True

        loop.reconcile()
        actions.sampler_settle(model=loop.model, policy=policy, now=NOW)

        assert loop.at("sampler") == loop.base
        # Pairs go on being written meanwhile.
        assert queries.models_served(loop.engine.models()) == [loop.model]

        loop.engine.up = False
        loop.reconcile()
        loop.engine.up = True
        loop.engine.restart()
        loop.engine.ignores_adapters = False
        loop.reconcile()
        actions.sampler_settle(model=loop.model, policy=policy, now=NOW)
        assert loop.at("sampler") == version


class TestVersionRetire:
    def test_takes_its_aliases_back(self, loop: Loop) -> None:
        version = loop.register()

        actions.version_retire(version=version, now=NOW)

        version.refresh_from_db()
        assert version.state == "retired"
        assert loop.at("challenger") == loop.base
        loop.reconcile()
        version.refresh_from_db()
        assert version.state == "retired"


class TestVersionsWanted:
    def test_are_those_that_wait_to_be_measured_and_their_parents(self, loop: Loop) -> None:
        versions = [loop.register() for _ in range(4)]
        for version in (*versions[:2], versions[3]):
            actions.version_measured(version=version, metrics={"evaluation": {}})

        wanted = queries.versions_wanted([loop.base.served_name])

        # v4 is challenger, v3 not measured, v2 its parent; v1 is nobody's concern.
        assert wanted == [versions[3], versions[2], versions[1]]

    def test_are_those_behind_an_alias_and_those_compared(self, loop: Loop) -> None:
        versions = [loop.register() for _ in range(4)]
        for version in versions:
            actions.version_measured(version=version, metrics={"evaluation": {}})
        factories.ComparisonFactory.create(
            model=loop.model, candidate=versions[1], incumbent=loop.base
        )
        factories.ComparisonFactory.create(
            model=loop.model, candidate=versions[0], incumbent=loop.base, state="closed"
        )

        wanted = queries.versions_wanted([loop.base.served_name])

        assert wanted == [versions[3], versions[1]]

    def test_are_those_that_somebody_waits_for_in_the_playground(self, loop: Loop) -> None:
        versions = [loop.register() for _ in range(11)]
        for version in versions[2:]:
            factories.ComparisonFactory.create(
                model=loop.model, candidate=version, incumbent=loop.base
            )
        for version in versions:
            actions.version_measured(version=version, metrics={"evaluation": {}})
        play = {"model": loop.model, "right_version": loop.base}
        factories.PlayFactory.create(left_version=versions[0], **play)
        factories.PlayFactory.create(left_version=versions[1], answered=True, **play)

        wanted = queries.versions_wanted([loop.base.served_name])

        # The challenger, then the one that is played, then as many that are compared as there is room for.
        assert wanted == [versions[10], versions[0], *versions[9:3:-1]]

    def test_are_at_most_eight_aliases_first(self, loop: Loop) -> None:
        versions = [loop.register() for _ in range(10)]
        for version in versions:
            factories.ComparisonFactory.create(
                model=loop.model, candidate=version, incumbent=loop.base
            )
        Alias.objects.filter(model=loop.model, name="champion").update(version=versions[0])

        wanted = queries.versions_wanted([loop.base.served_name])

        assert wanted == [versions[9], versions[0], *versions[8:2:-1]]

    @pytest.mark.parametrize("state", ["corrupt", "retired"])
    def test_are_none_that_may_not_be_served(self, loop: Loop, state: str) -> None:
        version = loop.register()
        ModelVersion.objects.filter(pk=version.pk).update(state=state)

        assert queries.versions_wanted([loop.base.served_name]) == []


def flip(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def truncate(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1])


def delete(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "README.md").unlink()


def remove(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


class TestDamage:
    """F16: a byte flips, a file is cut, a file or the whole folder goes."""

    @pytest.fixture(params=[flip, truncate, delete, remove])
    def damage(self, request: pytest.FixtureRequest) -> Callable[[Path], None]:
        return request.param

    def test_keeps_a_version_out_of_the_engine(
        self, loop: Loop, damage: Callable[[Path], None]
    ) -> None:
        version = loop.register()
        damage(store.path_of(version))

        loop.reconcile()

        version.refresh_from_db()
        assert version.state == "corrupt"
        assert loop.engine.adapters == {}
        assert loop.at("champion") == loop.at("challenger") == loop.base

    def test_lets_every_alias_fall_back_to_the_newest_verified_ancestor(
        self, loop: Loop, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = loop.verified(), loop.register()
        third = loop.verified()
        loop.promote(third)
        loop.settle()
        # Verified in between, but damaged as well by the time that somebody looks.
        ModelVersion.objects.filter(pk=second.pk).update(state="corrupt")
        damage(store.path_of(third))

        loop.engine.restart()
        loop.reconcile(minutes=5)

        third.refresh_from_db()
        assert third.state == "corrupt"
        assert [loop.at(name) for name in ("champion", "challenger", "sampler")] == [first] * 3
        assert set(loop.engine.adapters) <= {first.served_name}
        assert "is corrupt" in caplog.text
        move = AliasMove.objects.filter(name="champion").order_by("-id")[0]
        assert (move.from_version, move.to_version, move.moved_by) == (third, first, None)
        assert "v3 is corrupt" in move.reason
        # What the aliases fell back to is loaded by the next tick.
        loop.reconcile(minutes=6)
        assert loop.is_complete()

    def test_is_never_forgiven(self, loop: Loop) -> None:
        version = loop.register()
        artifact = store.path_of(version)
        remove(artifact)
        loop.reconcile()
        artifact.with_name("elsewhere").rename(artifact)

        loop.reconcile()

        version.refresh_from_db()
        assert version.state == "corrupt"


def raising(error: types.EngineError) -> Callable[..., None]:
    def fail(**_: object) -> None:
        raise error

    return fail


class TestTask:
    def test_brings_what_is_wanted_into_our_engine(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @contextmanager
        def opened(_url: str) -> Iterator[FakeEngine]:
            yield loop.engine

        monkeypatch.setattr(serving, "engine", opened)
        version = loop.register()

        tasks.engine_reconcile(timestamp=1)

        version.refresh_from_db()
        assert version.is_verified
