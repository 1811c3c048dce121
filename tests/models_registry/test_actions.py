from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models_registry import actions
from models_registry.bases import Base
from models_registry.models import Alias, AliasMove, Membership, ModelVersion, RegisteredModel
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


class TestMemberAdd:
    def test_lets_a_user_judge(self) -> None:
        model, user = factories.RegisteredModelFactory.create(), factories.UserFactory.create()

        actions.member_add(model=model, user=user)

        assert Membership.objects.get(model=model).user == user

    def test_changes_nothing_the_second_time(self) -> None:
        membership = factories.MembershipFactory.create()

        again = actions.member_add(model=membership.model, user=membership.user)

        assert again == membership
        assert Membership.objects.count() == 1
