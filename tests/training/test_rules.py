from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import pytest

from annotate.models import Prompt, Split
from models_registry.models import ModelVersion
from tests import factories
from tests.rules import Breach, execute, refused_by, rules_of
from training.models import Round, RoundAttempt, SnapshotItem

pytestmark = pytest.mark.django_db


def policy(**fields: object) -> None:
    factories.RoundPolicyFactory.create(**fields)


def item(**fields: object) -> SnapshotItem:
    return factories.SnapshotItemFactory.create(**fields)


def item_of_held_out_prompt(*, said: Split) -> None:
    """Insert a held-out pair into a snapshot by SQL, saying on which side its prompt is."""
    pair = factories.PairFactory.create(prompt__split=Split.HOLDOUT)
    snapshot = factories.SnapshotFactory.create(model=pair.prompt.model)
    execute(
        "INSERT INTO training_snapshotitem (snapshot_id, pair_id, prompt_id, prompt_split, chosen_id,"
        " rejected_id, target, weight, role, judgement_ids, sha256, is_consumed)"
        " VALUES (%s, %s, %s, %s, %s, %s, 0.85, 1, 'new', '{}', %s, false)",
        snapshot.pk, pair.pk, pair.prompt_id, said, pair.first_id, pair.second_id, "a" * 64,
    )  # fmt: skip


def item_moved_to_held_out_prompt(*, said: Split) -> None:
    held_out = factories.PairFactory.create(prompt__split=Split.HOLDOUT)
    execute(
        "UPDATE training_snapshotitem SET pair_id = %s, prompt_id = %s, prompt_split = %s,"
        " chosen_id = %s, rejected_id = %s WHERE id = %s",
        held_out.pk, held_out.prompt_id, said, held_out.first_id, held_out.second_id, item().pk,
    )  # fmt: skip


def prompt_that_changes_sides() -> None:
    frozen = item()
    # The pair has a rule of its own, which would speak first.
    execute("SET CONSTRAINTS pair_prompt_split DEFERRED")
    Prompt.objects.filter(pk=frozen.prompt_id).update(split=Split.HOLDOUT)


def pair_twice_in_a_snapshot() -> None:
    frozen = item()
    item(snapshot=frozen.snapshot, pair=frozen.pair)


def pair_of_another_prompt() -> None:
    frozen = item()
    SnapshotItem.objects.filter(pk=frozen.pk).update(pair=factories.PairFactory.create())


def chosen_is_rejected() -> None:
    frozen = item()
    SnapshotItem.objects.filter(pk=frozen.pk).update(rejected=frozen.chosen_id)


def new_item_consumed_twice() -> None:
    frozen = item(is_consumed=True)
    item(pair=frozen.pair, is_consumed=True)


def new_item_consumed_by_a_second_success() -> None:
    frozen = item(is_consumed=True)
    later = item(pair=frozen.pair)
    SnapshotItem.objects.filter(pk=later.pk).update(is_consumed=True)


def number_twice() -> None:
    first = factories.RoundFactory.create(state=Round.State.FAILED)
    factories.RoundFactory.create(model=first.model, number=first.number)


def second_open_round(*, first: str, second: str) -> None:
    other = factories.RoundFactory.create(state=first)
    factories.RoundFactory.create(model=other.model, number=2, state=second)


def version_of_another_model() -> None:
    factories.RoundFactory.create(version=factories.ModelVersionFactory.create())


def attempt_number_twice() -> None:
    first = factories.RoundAttemptFactory.create(outcome=RoundAttempt.Outcome.LOST)
    factories.RoundAttemptFactory.create(round=first.round, number=first.number)


def second_open_attempt() -> None:
    first = factories.RoundAttemptFactory.create()
    factories.RoundAttemptFactory.create(round=first.round, number=2)


def metric_twice() -> None:
    first = factories.RoundMetricFactory.create()
    factories.RoundMetricFactory.create(round=first.round)


def another_completion() -> object:
    return factories.CompletionFactory.create()


def score_twice() -> None:
    first = factories.AnswerScoreFactory.create()
    factories.AnswerScoreFactory.create(completion=first.completion)


BREACHES: list[Breach] = [
    ("round_policy_replay_bounds", lambda: policy(replay_share=-0.01)),
    ("round_policy_replay_bounds", lambda: policy(replay_share=1)),
    ("round_policy_positive", lambda: policy(beta=0)),
    ("round_policy_positive", lambda: policy(learning_rate=0)),
    ("round_policy_positive", lambda: policy(epochs=0)),
    ("round_policy_positive", lambda: policy(beta=nan)),
    ("round_policy_positive", lambda: policy(learning_rate=inf)),
    ("round_policy_reference_known", lambda: policy(reference="other")),
    ("round_policy_sampler_known", lambda: policy(sampler="other")),
    ("round_policy_preset_known", lambda: policy(preset="other")),
    ("round_policy_positive", lambda: policy(beta=10.1)),
    ("snapshot_has_hash", lambda: factories.SnapshotFactory.create(sha256="short")),
    # The truth is refused by the check, a lie by the foreign key.
    ("snapshot_item_is_train", lambda: item_of_held_out_prompt(said=Split.HOLDOUT)),
    ("snapshot_item_prompt_split", lambda: item_of_held_out_prompt(said=Split.TRAIN)),
    ("snapshot_item_is_train", lambda: item_moved_to_held_out_prompt(said=Split.HOLDOUT)),
    ("snapshot_item_prompt_split", lambda: item_moved_to_held_out_prompt(said=Split.TRAIN)),
    ("snapshot_item_prompt_split", prompt_that_changes_sides),
    ("snapshot_item_chosen_of_prompt", lambda: item(chosen=another_completion())),
    ("snapshot_item_rejected_of_prompt", lambda: item(rejected=another_completion())),
    ("snapshot_item_once", pair_twice_in_a_snapshot),
    ("snapshot_item_new_consumed_once", new_item_consumed_twice),
    ("snapshot_item_new_consumed_once", new_item_consumed_by_a_second_success),
    ("snapshot_item_target_bounds", lambda: item(target=0.49)),
    ("snapshot_item_target_bounds", lambda: item(target=1.01)),
    ("snapshot_item_target_bounds", lambda: item(target=nan)),
    ("snapshot_item_target_bounds", lambda: item(weight=0)),
    ("snapshot_item_target_bounds", lambda: item(weight=nan)),
    ("snapshot_item_role_known", lambda: item(role="other")),
    ("snapshot_item_of_two_completions", chosen_is_rejected),
    ("snapshot_item_pair_of_prompt", pair_of_another_prompt),
    ("round_number_once", number_twice),
    ("round_one_open_per_model", lambda: second_open_round(first="queued", second="queued")),
    ("round_one_open_per_model", lambda: second_open_round(first="running", second="queued")),
    ("round_success_has_version", lambda: factories.RoundFactory.create(state="evaluating")),
    ("round_success_has_version", lambda: factories.RoundFactory.create(state="succeeded")),
    (
        "round_parent_same_model",
        lambda: factories.RoundFactory.create(parent=factories.ModelVersionFactory.create()),
    ),
    ("round_version_same_model", version_of_another_model),
    ("round_state_known", lambda: factories.RoundFactory.create(state="other")),
    ("round_reference_known", lambda: factories.RoundFactory.create(reference="other")),
    ("attempt_outcome_known", lambda: factories.RoundAttemptFactory.create(outcome="other")),
    ("attempt_number_once", attempt_number_twice),
    ("attempt_one_open_per_round", second_open_attempt),
    ("round_metric_once", metric_twice),
    ("attempt_progress_bounds", lambda: factories.RoundAttemptFactory.create(progress=1.01)),
    ("attempt_progress_bounds", lambda: factories.RoundAttemptFactory.create(progress=nan)),
    ("answer_score_once", score_twice),
    ("answer_score_bounds", lambda: factories.AnswerScoreFactory.create(tokens=0)),
    ("answer_score_bounds", lambda: factories.AnswerScoreFactory.create(log_ratio=nan)),
    ("answer_score_bounds", lambda: factories.AnswerScoreFactory.create(log_ratio=-inf)),
]


class TestRules:
    @pytest.mark.parametrize(("rule", "breach"), BREACHES, ids=[rule for rule, _ in BREACHES])
    def test_refuse(self, rule: str, breach: Callable[[], object]) -> None:
        with refused_by(rule):
            breach()

    @pytest.mark.parametrize("side", ["chosen", "rejected"])
    def test_refuse_completions_of_another_pair_of_the_prompt(self, side: str) -> None:
        frozen = item()
        other = factories.CompletionFactory.create(prompt=frozen.prompt)

        with refused_by("the completions are not those of the pair"):
            SnapshotItem.objects.filter(pk=frozen.pk).update(**{side: other})

    def test_are_all_tested(self) -> None:
        assert rules_of("training") == {rule for rule, _ in BREACHES}

    def test_let_a_consumed_triple_be_replayed(self) -> None:
        frozen = item(is_consumed=True)

        assert item(pair=frozen.pair, role="replay", is_consumed=True).pk

    def test_let_a_failed_rounds_triple_be_new_again(self) -> None:
        frozen = item(is_consumed=False)

        assert item(pair=frozen.pair, is_consumed=True).pk

    def test_let_a_round_start_while_the_last_one_is_evaluated(self) -> None:
        first = factories.RoundFactory.create()
        version: ModelVersion = factories.ModelVersionFactory.create(
            model=first.model, adapter=True
        )
        Round.objects.filter(pk=first.pk).update(state=Round.State.EVALUATING, version=version)

        assert factories.RoundFactory.create(model=first.model, number=2).pk

    def test_let_a_lost_attempt_be_followed_by_another(self) -> None:
        first = factories.RoundAttemptFactory.create(outcome=RoundAttempt.Outcome.LOST)

        assert factories.RoundAttemptFactory.create(round=first.round, number=2).pk
