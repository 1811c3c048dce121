from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone

from models_registry.models import (
    Alias,
    AliasMove,
    ModelVersion,
    Outcome,
    PersonChange,
    Play,
    RegisteredModel,
)
from tests import factories
from tests.rules import Breach, execute, refused_by, rules_of

pytestmark = pytest.mark.django_db


def model(**fields: object) -> RegisteredModel:
    return factories.RegisteredModelFactory.create(**fields)


def base() -> ModelVersion:
    """Return the v0 of a model of its own."""
    return factories.ModelVersionFactory.create()


def adapter(**fields: object) -> ModelVersion:
    return factories.ModelVersionFactory.create(adapter=True, **fields)


def play(**fields: object) -> Play:
    return factories.PlayFactory.create(**fields)


def member_twice() -> None:
    membership = factories.MembershipFactory.create()
    factories.MembershipFactory.create(model=membership.model, user=membership.user)


def number_twice() -> None:
    version = adapter()
    ModelVersion.objects.create(
        model=version.model, number=version.number, parent=version.parent, kind="adapter",
        artifact_path="elsewhere", sha256=factories.sha256("other"), size_bytes=1,
    )  # fmt: skip


def served_twice() -> None:
    serving = factories.ServingFactory.create()
    factories.ServingFactory.create(version=serving.version, engine=serving.engine)


def compared_with_itself() -> None:
    version = base()
    factories.ComparisonFactory.create(model=version.model, candidate=version, incumbent=version)


def compared_twice_at_once() -> None:
    comparison = factories.ComparisonFactory.create()
    factories.ComparisonFactory.create(model=comparison.model)


def outcome_twice() -> None:
    outcome = factories.OutcomeFactory.create()
    factories.OutcomeFactory.create(comparison=outcome.comparison, source=outcome.source)


BREACHES: list[Breach] = [
    ("model_slug_is_a_slug", lambda: model(slug="Demo")),
    ("model_slug_is_a_slug", lambda: model(slug="de mo")),
    ("model_slug_is_a_slug", lambda: model(slug="-demo")),
    ("model_lora_rank_loads_in_vllm", lambda: model(lora_rank=3)),
    ("model_ready_has_hashes", lambda: model(base_sha256="")),
    ("model_ready_has_hashes", lambda: model(tokenizer_sha256="a" * 63)),
    ("model_ready_has_hashes", lambda: model(chat_template_sha256="not a hash")),
    ("model_state_known", lambda: model(state="other")),
    ("membership_once", member_twice),
    ("person_change_known", lambda: factories.PersonChangeFactory.create(kind="other")),
    ("person_change_known", lambda: factories.PersonChangeFactory.create(kind="member_added")),
    ("person_change_known", lambda: factories.PersonChangeFactory.create(model=model())),
    ("version_number_once", number_twice),
    ("version_has_hash", lambda: adapter(sha256="A" * 64)),
    ("version_kind_known", lambda: adapter(kind="other")),
    ("version_state_known", lambda: adapter(state="other")),
    ("version_base_is_v0", lambda: factories.ModelVersionFactory.create(number=1)),
    ("version_base_is_v0", lambda: adapter(parent=None)),
    ("version_base_is_v0", lambda: adapter(kind="base")),
    ("models_registry_modelversion_parent_id_same_model", lambda: adapter(parent=base())),
    ("alias_once", lambda: factories.AliasFactory.create(model=model())),
    ("alias_name_is_a_slug", lambda: factories.AliasFactory.create(model=model(), name="The best")),
    (
        "models_registry_alias_version_id_same_model",
        lambda: Alias.objects.filter(model=model()).update(version=base()),
    ),
    ("alias_move_has_reason", lambda: factories.AliasMoveFactory.create(reason="")),
    (
        "models_registry_aliasmove_from_version_id_same_model",
        lambda: factories.AliasMoveFactory.create(from_version=base()),
    ),
    (
        "models_registry_aliasmove_to_version_id_same_model",
        lambda: factories.AliasMoveFactory.create(to_version=base()),
    ),
    ("serving_once", served_twice),
    ("comparison_of_two_versions", compared_with_itself),
    ("comparison_budget_bounds", lambda: factories.ComparisonFactory.create(budget=0)),
    ("comparison_budget_bounds", lambda: factories.ComparisonFactory.create(budget=1001)),
    ("comparison_open_once", compared_twice_at_once),
    ("comparison_state_known", lambda: factories.ComparisonFactory.create(state="other")),
    (
        "models_registry_comparison_candidate_id_same_model",
        lambda: factories.ComparisonFactory.create(candidate=base()),
    ),
    (
        "models_registry_comparison_incumbent_id_same_model",
        lambda: factories.ComparisonFactory.create(incumbent=base()),
    ),
    ("outcome_win_has_winner", lambda: factories.OutcomeFactory.create(winner=None)),
    ("outcome_win_has_winner", lambda: factories.OutcomeFactory.create(kind=Outcome.Kind.TIE)),
    ("outcome_win_has_winner", lambda: factories.OutcomeFactory.create(kind=Outcome.Kind.BOTH_BAD)),
    ("outcome_kind_known", lambda: factories.OutcomeFactory.create(kind="other", winner=None)),
    ("outcome_once_per_source", outcome_twice),
    ("play_of_two_versions", lambda: play(left_version=(version := base()), right_version=version)),
    ("play_state_known", lambda: play(state="other")),
    ("play_answered_has_both", lambda: play(answered=True, right_tokens=None)),
    ("play_answered_has_both", lambda: play(left_tokens=3)),
    ("play_failed_has_reason", lambda: play(state="failed")),
    ("play_failed_has_reason", lambda: play(failure="It broke.")),
    ("play_pick_of_answers", lambda: play(pick="left", picked_at=timezone.now())),
    ("play_pick_of_answers", lambda: play(answered=True, pick="left")),
    ("play_pick_of_answers", lambda: play(answered=True, picked_at=timezone.now())),
    (
        "play_pick_of_answers",
        lambda: play(answered=True, pick="left_much", picked_at=timezone.now()),
    ),
    ("models_registry_play_left_version_id_same_model", lambda: play(left_version=base())),
    ("models_registry_play_right_version_id_same_model", lambda: play(right_version=base())),
]
#: Targets of composite foreign keys; `id` alone is unique already, so nothing can break them.
TARGETS = {"version_of_model"}


class TestRules:
    @pytest.mark.parametrize(("rule", "breach"), BREACHES, ids=[rule for rule, _ in BREACHES])
    def test_refuse(self, rule: str, breach: Callable[[], object]) -> None:
        with refused_by(rule):
            breach()

    def test_are_all_tested(self) -> None:
        assert rules_of("models_registry") == {rule for rule, _ in BREACHES} | TARGETS

    def test_refuse_a_winner_that_was_not_compared(self) -> None:
        with refused_by("the winner was not compared"):
            factories.OutcomeFactory.create(winner=base())

    def test_let_a_model_without_hashes_be_prepared(self) -> None:
        assert model(state="preparing", base_sha256="", sampler=None, champion=None).pk

    def test_let_a_withdrawn_outcome_be_followed_by_another(self) -> None:
        outcome = factories.OutcomeFactory.create(withdrawn_at=timezone.now())

        assert factories.OutcomeFactory.create(
            comparison=outcome.comparison, source=outcome.source, kind="tie", winner=None
        ).pk


class TestVersionFixed:
    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("id", "id + 1000"),
            ("model_id", "NULL"),
            ("number", "number + 1"),
            ("parent_id", "NULL"),
            ("kind", "'full'"),
            ("artifact_path", "'elsewhere'"),
            ("sha256", "repeat('0', 64)"),
            ("size_bytes", "size_bytes + 1"),
            ("created_at", "created_at - interval '1 day'"),
        ],
    )
    def test_refuses_another_value(self, column: str, value: str) -> None:
        version = adapter()

        with refused_by("a version is immutable"):
            execute(
                f"UPDATE models_registry_modelversion SET {column} = {value} WHERE id = %s",
                version.pk,
            )

    def test_allows_what_is_learned_later(self) -> None:
        version = adapter(state="registered")

        version.state, version.metrics, version.card = "verified", {"kl": 0.1}, "A card."
        version.save()

        version.refresh_from_db()
        assert (version.state, version.metrics, version.card) == (
            "verified", {"kl": 0.1}, "A card.",
        )  # fmt: skip


class TestAliasMove:
    def test_cannot_be_rewritten(self) -> None:
        factories.AliasMoveFactory.create()

        with refused_by("models_registry_aliasmove is append-only"):
            AliasMove.objects.update(reason="Something else.")

    def test_cannot_be_deleted(self) -> None:
        factories.AliasMoveFactory.create()

        with refused_by("models_registry_aliasmove is append-only"):
            AliasMove.objects.all().delete()


class TestPersonChange:
    def test_cannot_be_rewritten(self) -> None:
        factories.PersonChangeFactory.create()

        with refused_by("models_registry_personchange is append-only"):
            PersonChange.objects.update(made_at=timezone.now())

    def test_cannot_be_deleted(self) -> None:
        factories.PersonChangeFactory.create()

        with refused_by("models_registry_personchange is append-only"):
            PersonChange.objects.all().delete()
