from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from models_registry import actions, queries
from models_registry.models import AliasMove, Comparison, ModelVersion, Outcome
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def version() -> ModelVersion:
    """A verified v1 beside v0, the champion."""
    return factories.ModelVersionFactory.create(adapter=True)


def compare(version: ModelVersion, **fields: object) -> Comparison:
    asked = {
        "model": version.model, "candidate": version, "incumbent": version.parent, "budget": 5,
        "available": 10, "by": factories.UserFactory.create(),
    }  # fmt: skip
    return actions.comparison_open(**(asked | fields))


def outcomes(comparison: Comparison, **counts: int) -> None:
    """Record outcomes on prompts of their own, by four labelers in turn, the sides alternating."""
    labelers = factories.UserFactory.create_batch(4)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    winners = {"win": comparison.candidate, "loss": comparison.incumbent}
    Outcome.objects.bulk_create(
        Outcome(
            comparison=comparison,
            kind="win" if kind in winners else kind,
            winner=winners.get(kind),
            prompt_key=factories.sha256(f"prompt {n}"),
            labeler=labelers[n % 4],
            source=uuid.uuid4(),
            candidate_left=n % 2 == 0,
            candidate_tokens=10 + n % 3,
            incumbent_tokens=11,
            recorded_at=NOW,
        )
        for n, kind in enumerate(kinds)
    )


def promote(version: ModelVersion) -> AliasMove:
    return actions.version_promote(
        model=version.model, version=version, by=factories.UserFactory.create(),
        reason="It won.", now=NOW,
    )  # fmt: skip


class TestComparisonOpen:
    def test_keeps_what_was_asked_and_by_whom(self, version: ModelVersion) -> None:
        ada = factories.UserFactory.create()

        comparison = compare(version, budget=7, by=ada)

        assert comparison.is_open
        assert (comparison.candidate, comparison.incumbent) == (version, version.parent)
        assert (comparison.budget, comparison.created_by) == (7, ada)

    def test_refuses_one_version(self, version: ModelVersion) -> None:
        with pytest.raises(actions.SameVersion):
            compare(version, incumbent=version)

    def test_refuses_an_unverified_version(self, version: ModelVersion) -> None:
        ModelVersion.objects.filter(pk=version.pk).update(state="retired")

        with pytest.raises(actions.VersionUnverified, match="v1 is retired"):
            compare(version)

    def test_refuses_a_version_of_another_model(self, version: ModelVersion) -> None:
        other = factories.ModelVersionFactory.create()

        with pytest.raises(ModelVersion.DoesNotExist):
            compare(version, incumbent=other)

    @pytest.mark.parametrize(
        ("budget", "available", "said"),
        [
            (0, 10, "Choose 1 to 10 prompts; 10 are held out."),
            (11, 10, "Choose 1 to 10 prompts"),
            (1001, 5000, "Choose 1 to 1000 prompts"),
            (1, 0, "No prompt is held out yet."),
        ],
    )
    def test_refuses_a_budget_that_is_not_there(
        self, version: ModelVersion, budget: int, available: int, said: str
    ) -> None:
        with pytest.raises(actions.BudgetInvalid, match=said):
            compare(version, budget=budget, available=available)

    def test_refuses_a_second_one_in_either_direction(self, version: ModelVersion) -> None:
        first = compare(version)

        with pytest.raises(actions.ComparisonOpen):
            compare(version)
        with pytest.raises(actions.ComparisonOpen):
            compare(version, candidate=version.parent, incumbent=version)

        actions.comparison_close(comparison=first, now=NOW)
        assert compare(version).is_open


class TestComparisonClose:
    def test_ends_it_once(self, version: ModelVersion) -> None:
        comparison = compare(version)

        actions.comparison_close(comparison=comparison, now=NOW)
        actions.comparison_close(comparison=comparison, now=datetime.now(UTC))

        comparison.refresh_from_db()
        assert (comparison.state, comparison.ended_at) == ("closed", NOW)


class TestComparisonEvidence:
    def test_counts_what_stands(self, version: ModelVersion) -> None:
        comparison = compare(version)
        outcomes(comparison, win=5, loss=3, tie=2, both_bad=1)
        taken_back = Outcome.objects.filter(kind="win", winner=version).first()
        actions.outcome_withdraw(source=taken_back.source, now=NOW)

        found = queries.comparison_evidence(comparison)

        assert (found.wins, found.losses, found.ties, found.both_bad) == (4, 3, 2, 1)

    def test_compares_bad_answers_with_the_incumbents_earlier_ones(
        self, version: ModelVersion
    ) -> None:
        first = compare(version)
        outcomes(first, win=28, both_bad=2)
        actions.comparison_close(comparison=first, now=NOW)
        second = compare(version)
        outcomes(second, win=20, both_bad=20)

        (check,) = [
            check
            for check in queries.comparison_evidence(second).checks
            if check.name == "both_bad"
        ]
        assert not check.ok
        assert check.value == pytest.approx(20 / 40 - 2 / 30)

    def test_knows_sides_and_lengths(self, version: ModelVersion) -> None:
        comparison = compare(version)
        outcomes(comparison, win=60, loss=50)

        names = {check.name for check in queries.comparison_evidence(comparison).checks}
        assert {"left_rate", "length_controlled"} <= names

    def test_does_without_them(self, version: ModelVersion) -> None:
        comparison = compare(version)
        outcomes(comparison, win=60)
        Outcome.objects.update(candidate_left=None, candidate_tokens=0)

        names = {check.name for check in queries.comparison_evidence(comparison).checks}
        assert not {"left_rate", "length_controlled"} & names


class TestGate:
    def test_is_kept_with_a_promotion(self, version: ModelVersion) -> None:
        comparison = compare(version)
        outcomes(comparison, win=90, loss=30)

        gate = promote(version).gate_result

        assert gate["passed"] is True
        assert gate["comparison"] == comparison.pk
        assert gate["incumbent"] == 0
        assert (gate["wins"], gate["losses"]) == (90, 30)
        assert "decisive_votes" in {check["name"] for check in gate["checks"]}
        assert "all conditions held" in AliasMove.objects.get().gate

    def test_says_what_was_not_proved(self, version: ModelVersion) -> None:
        outcomes(compare(version), win=9, loss=3)

        move = promote(version)

        assert move.gate_result["passed"] is False
        assert "not all conditions held" in move.gate

    def test_is_missed_where_nobody_compared(self, version: ModelVersion) -> None:
        move = promote(version)

        assert move.gate_result == {"comparison": None, "passed": False}
        assert move.gate == "without evidence"

    def test_is_missed_where_nobody_has_answered_yet(self, version: ModelVersion) -> None:
        compare(version)

        assert promote(version).gate == "without evidence"

    def test_is_about_the_champion_that_it_replaces(self, version: ModelVersion) -> None:
        newer = factories.ModelVersionFactory.create(
            model=version.model, number=2, kind="adapter", parent=version
        )
        outcomes(compare(newer, incumbent=version), win=90, loss=30)

        # v0 is the champion, and nobody compared v2 with it.
        assert promote(newer).gate == "without evidence"

    def test_says_nothing_of_a_roll_back(self, version: ModelVersion) -> None:
        promote(version)

        move = actions.version_rollback(
            model=version.model, by=factories.UserFactory.create(), reason="No.", now=NOW
        )

        assert move.gate == ""
