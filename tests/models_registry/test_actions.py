from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from models_registry import actions
from models_registry.bases import Base
from models_registry.models import Alias, AliasMove, ModelVersion, RegisteredModel
from models_registry.store import Artifact
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
BASE = Base(
    sha256=factories.sha256("all files"),
    base_sha256=factories.sha256("weights"),
    tokenizer_sha256=factories.sha256("tokenizer"),
    chat_template_sha256=factories.sha256("chat template"),
    size_bytes=270_000_000,
    parameters=135_000_000,
    context_length=2048,
)


def prepared(**fields: object) -> RegisteredModel:
    given = {"slug": "tiny", "name": "Tiny", "source": "demo"} | fields
    return actions.model_prepare(**given)


class TestModelPrepare:
    def test_announces_a_model_without_a_base(self) -> None:
        model = prepared(lora_rank=8)

        assert model.state == "preparing"
        assert (model.lora_rank, model.lora_alpha) == (8, 16)
        assert not ModelVersion.objects.exists()

    def test_begins_again_after_a_failure(self) -> None:
        failed = prepared(source="/models/broken")
        factories.PromptFactory.create(model=failed)
        actions.base_refused(model=failed, reason="No tokenizer.")

        again = prepared(source="/models/whole")

        assert again.pk == failed.pk
        assert (again.state, again.failure, again.base_source) == (
            "preparing", "", "/models/whole",
        )  # fmt: skip

    def test_refuses_a_slug_whose_base_is_there(self) -> None:
        ready = factories.RegisteredModelFactory.create(slug="tiny", name="The first")

        with pytest.raises(actions.ModelExists, match="tiny"):
            prepared()

        ready.refresh_from_db()
        assert ready.name == "The first"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("slug", ""),
            ("slug", "Tiny"),
            ("slug", "a" * 51),
            ("slug", "tiny\n"),
            ("name", ""),
            ("name", "a" * 101),
            ("source", ""),
            ("source", "a" * 501),
            ("lora_rank", 3),
            ("lora_rank", -8),
        ],
    )
    def test_refuses_what_the_database_would(self, field: str, value: object) -> None:
        with pytest.raises(actions.ModelInvalid):
            prepared(**{field: value})

        assert not RegisteredModel.objects.exists()


class TestBaseRegister:
    def test_records_v0_and_lets_sampler_and_champion_point_at_it(self) -> None:
        model = prepared()

        version = actions.base_register(model=model, base=BASE, now=NOW)

        assert (version.number, version.kind, version.state) == (0, "base", "verified")
        assert (version.sha256, version.artifact_path) == (BASE.sha256, BASE.sha256)
        aliases = Alias.objects.order_by("name").values_list("name", "version")
        assert list(aliases) == [("champion", version.pk), ("sampler", version.pk)]
        assert set(AliasMove.objects.values_list("from_version", "moved_by", "moved_at")) == {
            (None, None, NOW)
        }

    def test_makes_the_model_ready_with_every_hash(self) -> None:
        model = prepared()

        actions.base_register(model=model, base=BASE, now=NOW)

        model.refresh_from_db()
        assert model.is_ready
        assert model.base_path == BASE.sha256
        assert model.base_sha256 == BASE.base_sha256
        assert model.tokenizer_sha256 == BASE.tokenizer_sha256
        assert model.chat_template_sha256 == BASE.chat_template_sha256
        assert (model.parameters, model.context_length) == (135_000_000, 2048)

    def test_refuses_a_second_base(self) -> None:
        model = prepared()
        actions.base_register(model=model, base=BASE, now=NOW)

        # The caller's copy still says that it is being prepared.
        with pytest.raises(actions.ModelExists):
            actions.base_register(model=model, base=BASE, now=NOW)

        assert ModelVersion.objects.count() == 1


class TestBaseRefused:
    def test_keeps_the_reason_where_somebody_waits_for_the_model(self) -> None:
        model = prepared()
        factories.PromptFactory.create(model=model)

        actions.base_refused(model=model, reason="No tokenizer.")

        model.refresh_from_db()
        assert model.has_failed
        assert model.failure == "No tokenizer."

    def test_forgets_a_model_that_nobody_waits_for(self) -> None:
        actions.base_refused(model=prepared(), reason="No tokenizer.")

        assert not RegisteredModel.objects.exists()

    def test_changes_nothing_about_a_model_that_is_ready(self) -> None:
        ready = factories.RegisteredModelFactory.create()

        actions.base_refused(model=ready, reason="Too late.")

        ready.refresh_from_db()
        assert ready.is_ready
        assert ready.failure == ""


class TestAliasMove:
    def test_keeps_who_moved_it_from_where_to_where_when_and_why(self) -> None:
        version = factories.ModelVersionFactory.create(adapter=True)
        admin = factories.UserFactory.create(is_staff=True)

        move = actions.alias_move(
            model=version.model, name="champion", version=version, by=admin, reason="It won.", now=NOW
        )  # fmt: skip

        move.refresh_from_db()
        assert (move.from_version, move.to_version) == (version.parent, version)
        assert (move.moved_by, move.reason, move.moved_at) == (admin, "It won.", NOW)
        assert Alias.objects.get(model=version.model, name="champion").version == version
        assert Alias.objects.get(model=version.model, name="sampler").version == version.parent

    def test_makes_an_alias_that_was_not_there(self) -> None:
        version = factories.ModelVersionFactory.create(adapter=True)

        move = actions.alias_move(
            model=version.model, name="challenger", version=version, by=None, reason="New.", now=NOW
        )

        assert move.from_version is None
        assert Alias.objects.get(name="challenger").version == version

    def test_leaves_the_whole_way_behind(self) -> None:
        version = factories.ModelVersionFactory.create(adapter=True)
        there_and_back = [version, version.parent, version]

        for minutes, goal in enumerate(there_and_back):
            actions.alias_move(
                model=version.model, name="sampler", version=goal, by=None, reason="Policy.",
                now=NOW + timedelta(minutes=minutes),
            )  # fmt: skip

        way = AliasMove.objects.order_by("moved_at").values_list(
            "from_version__number", "to_version__number"
        )
        assert list(way) == [(0, 1), (1, 0), (0, 1)]


def registered(model: RegisteredModel, **fields: Any) -> ModelVersion:
    """Register one more adapter on the model's newest version."""
    number = model.versions.count()
    given: dict[str, Any] = {
        "parent": model.versions.order_by("-number").first(),
        "artifact": Artifact(
            sha256=factories.sha256(f"adapter {number}"),
            path=Path("/versions") / factories.sha256(f"adapter {number}"),
            size_bytes=9,
        ),
        "metrics": {},
        "card": "# A card",
    }
    return actions.version_register(model=model, now=NOW, **(given | fields))


def verified(model: RegisteredModel, **fields: Any) -> ModelVersion:
    version = registered(model, **fields)
    ModelVersion.objects.filter(pk=version.pk).update(state="verified")
    version.refresh_from_db()
    return version


def at(model: RegisteredModel, name: str) -> ModelVersion:
    return Alias.objects.get(model=model, name=name).version


class TestVersionRegister:
    def test_records_the_next_number_as_challenger(self) -> None:
        model = factories.RegisteredModelFactory.create()
        first = registered(model)

        second = registered(model, metrics={"loss": 0.5})

        assert (first.number, second.number) == (1, 2)
        assert (second.kind, second.state, second.parent) == ("adapter", "registered", first)
        assert second.artifact_path == second.sha256
        assert second.metrics == {"loss": 0.5}
        assert at(model, "challenger") == second
        assert at(model, "sampler").number == at(model, "champion").number == 0
        move = AliasMove.objects.order_by("-id")[0]
        assert (move.from_version, move.to_version, move.moved_by) == (first, second, None)

    def test_leaves_nothing_of_a_caller_that_fails(self) -> None:
        model = factories.RegisteredModelFactory.create()

        with pytest.raises(RuntimeError), transaction.atomic():
            registered(model)
            raise RuntimeError

        assert model.versions.count() == 1
        assert not Alias.objects.filter(name="challenger").exists()


@pytest.mark.django_db(transaction=True)
class TestVersionRegisterInParallel:
    def test_gives_every_version_a_number_of_its_own(self) -> None:
        model = factories.RegisteredModelFactory.create()
        parent, barrier = model.versions.get(), threading.Barrier(4)

        def register(number: int) -> int:
            try:
                barrier.wait(10)
                sha256 = factories.sha256(f"parallel {number}")
                artifact = Artifact(sha256=sha256, path=Path("/versions") / sha256, size_bytes=9)
                return registered(model, parent=parent, artifact=artifact).number
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as threads:
            numbers = list(threads.map(register, range(4)))

        assert sorted(numbers) == [1, 2, 3, 4]
        assert at(model, "challenger").number == 4


class TestSamplerSettle:
    def settle(self, model: RegisteredModel, policy: str = "latest") -> AliasMove | None:
        return actions.sampler_settle(model=model, policy=policy, now=NOW)

    def test_takes_the_newest_verified_version(self) -> None:
        model = factories.RegisteredModelFactory.create()
        verified(model)
        newest = verified(model)
        registered(model)

        move = self.settle(model)

        assert move is not None
        assert (move.to_version, move.moved_by) == (newest, None)
        assert at(model, "sampler") == newest

    def test_passes_over_what_a_guardrail_stopped(self) -> None:
        model = factories.RegisteredModelFactory.create()
        good = verified(model, metrics={"guardrails": {"failed": []}})
        verified(model, metrics={"guardrails": {"failed": ["kl"]}})

        self.settle(model)

        assert at(model, "sampler") == good

    def test_moves_only_once(self) -> None:
        model = factories.RegisteredModelFactory.create()
        verified(model)
        self.settle(model)

        assert self.settle(model) is None

    def test_follows_the_champion_by_policy(self) -> None:
        model = factories.RegisteredModelFactory.create()
        verified(model)

        assert self.settle(model, "champion") is None
        assert at(model, "sampler").number == 0

    def test_never_takes_a_champion_that_is_not_verified(self) -> None:
        model = factories.RegisteredModelFactory.create()
        broken = registered(model)
        Alias.objects.filter(model=model, name="champion").update(version=broken)

        assert self.settle(model, "champion") is None
        assert at(model, "sampler").number == 0


class TestVersionPromote:
    def promote(self, version: ModelVersion, reason: str = "It won.") -> AliasMove:
        return actions.version_promote(
            model=version.model,
            version=version,
            by=factories.UserFactory.create(is_staff=True),
            reason=reason,
            now=NOW,
        )

    def test_makes_a_verified_version_champion(self) -> None:
        version = verified(factories.RegisteredModelFactory.create())

        move = self.promote(version, " It won. ")

        assert at(version.model, "champion") == version
        assert at(version.model, "sampler").number == 0
        assert (move.reason, move.moved_at) == ("It won.", NOW)
        assert move.moved_by

    @pytest.mark.parametrize("state", ["registered", "retired", "corrupt"])
    def test_refuses_a_version_that_is_not_verified(self, state: str) -> None:
        version = verified(factories.RegisteredModelFactory.create())
        # The caller's copy still says that it is verified.
        ModelVersion.objects.filter(pk=version.pk).update(state=state)

        with pytest.raises(actions.VersionUnverified, match="v1"):
            self.promote(version)

        assert at(version.model, "champion").number == 0

    def test_refuses_to_go_without_a_reason(self) -> None:
        with pytest.raises(actions.ReasonMissing):
            self.promote(verified(factories.RegisteredModelFactory.create()), " \n")

    def test_refuses_the_champion(self) -> None:
        version = verified(factories.RegisteredModelFactory.create())
        self.promote(version)

        with pytest.raises(actions.AlreadyChampion):
            self.promote(version)


class TestVersionRollback:
    def rollback(self, model: RegisteredModel, reason: str = "It rambles.") -> AliasMove:
        admin = factories.UserFactory.create(is_staff=True)
        return actions.version_rollback(model=model, by=admin, reason=reason, now=NOW)

    def promoted(self, model: RegisteredModel) -> ModelVersion:
        version = verified(model)
        admin = factories.UserFactory.create(is_staff=True)
        actions.version_promote(model=model, version=version, by=admin, reason="Won.", now=NOW)
        return version

    def test_goes_back_to_where_the_last_move_came_from(self) -> None:
        model = factories.RegisteredModelFactory.create()
        first = self.promoted(model)
        second = self.promoted(model)

        move = self.rollback(model)

        assert (move.from_version, move.to_version) == (second, first)
        assert at(model, "champion") == first

    def test_refuses_when_there_was_no_other(self) -> None:
        with pytest.raises(actions.NothingToRollBack):
            self.rollback(factories.RegisteredModelFactory.create())

    def test_refuses_a_version_that_is_corrupt_instead_of_skipping_it(self) -> None:
        model = factories.RegisteredModelFactory.create()
        first = self.promoted(model)
        second = self.promoted(model)
        ModelVersion.objects.filter(pk=first.pk).update(state="corrupt")

        with pytest.raises(actions.RollbackUnusable, match="v1, which is corrupt"):
            self.rollback(model)

        assert at(model, "champion") == second

    def test_refuses_to_go_without_a_reason(self) -> None:
        model = factories.RegisteredModelFactory.create()
        self.promoted(model)

        with pytest.raises(actions.ReasonMissing):
            self.rollback(model, "")
