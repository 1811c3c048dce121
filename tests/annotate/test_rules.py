from __future__ import annotations

from collections.abc import Callable
from math import nan

import pytest

from annotate.models import Drop, Judgement, JudgingPolicy, Pair, Prompt, QueueEntry, Split, Tally
from tests import factories
from tests.rules import Breach, execute, refused_by, rules_of

pytestmark = pytest.mark.django_db


def policy(**fields: object) -> None:
    model = factories.RegisteredModelFactory.create()
    JudgingPolicy.objects.filter(model=model).update(**fields)


def completion(**fields: object) -> None:
    factories.CompletionFactory.create(**fields)


def pair(**fields: object) -> Pair:
    return factories.PairFactory.create(**fields)


def judgement(**fields: object) -> Judgement:
    return factories.JudgementFactory.create(**fields)


def drop_for_no_reason() -> None:
    Drop.objects.create(version=factories.ModelVersionFactory.create(), reason="other")


def prompt_twice() -> None:
    prompt = factories.PromptFactory.create()
    factories.PromptFactory.create(model=prompt.model, messages=prompt.messages)


def pair_twice() -> None:
    first = pair()
    pair(prompt=first.prompt, first=first.first, second=first.second)


def pair_in_the_wrong_order() -> None:
    Pair.objects.filter(pk=pair().pk).update(first=2, second=1)


def pair_with_a_completion_of_another_prompt(side: str) -> None:
    # The foreign keys to the completions themselves hold; only the prompt is another one.
    good, other = pair(), factories.CompletionFactory.create()
    if side == "first":
        lowest = factories.CompletionFactory.create(pk=-1)
        Pair.objects.filter(pk=good.pk).update(first=lowest)
    else:
        Pair.objects.filter(pk=good.pk).update(second=other)


def prompt_that_changes_sides() -> None:
    Prompt.objects.filter(pk=pair().prompt_id).update(split=Split.HOLDOUT)


def lease_twice() -> None:
    lease = factories.AssignmentFactory.create()
    factories.AssignmentFactory.create(pair=lease.pair, labeler=lease.labeler)


def revision_twice() -> None:
    first = judgement()
    judgement(assignment=first.assignment)


def tally_twice() -> None:
    model, labeler = factories.RegisteredModelFactory.create(), factories.UserFactory.create()
    for _ in range(2):
        Tally.objects.create(model=model, labeler=labeler)


def drop_twice() -> None:
    version = factories.ModelVersionFactory.create()
    for _ in range(2):
        Drop.objects.create(version=version, reason=Drop.Reason.EMPTY)


def preference(**fields: object) -> None:
    factories.ImportedPreferenceFactory.create(**fields)


def preference_twice() -> None:
    first = factories.ImportedPreferenceFactory.create()
    preference(model=first.model, sha256=first.sha256)


def left_out_twice() -> None:
    drop = factories.ComparisonDropFactory.create()
    factories.ComparisonDropFactory.create(comparison=drop.comparison, prompt=drop.prompt)


#: Constraint -> a value just outside it, at either end.
BOUNDS = {
    "policy_temperature_bounds": [{"temperature": 0}, {"temperature": 2.01}, {"temperature": nan}],
    "policy_top_p_bounds": [{"top_p": 0}, {"top_p": 1.01}],
    "policy_samples_bounds": [{"samples": 1}, {"samples": 9}],
    "policy_pairs_per_prompt_bounds": [{"pairs_per_prompt": 0}, {"pairs_per_prompt": 4}],
    "policy_max_tokens_bounds": [{"max_tokens": 0}, {"max_tokens": 4097}],
    "policy_overlap_bounds": [{"overlap": 0}],
    "policy_overlap_most_bounds": [{"overlap_most": 0}, {"overlap_most": 11}],
    "policy_audit_bounds": [{"audit_share": -0.01}, {"audit_share": 1.01}, {"audit_share": nan}],
    "policy_eval_share_bounds": [{"eval_share": -0.01}, {"eval_share": 0.51}],
    # Below a fifth, nothing could be proved about a version.
    "policy_holdout_share_bounds": [{"holdout_share": 0.19}, {"holdout_share": 0.81}],
    "policy_lease_bounds": [{"lease_minutes": 0}],
}
BREACHES: list[Breach] = [
    *(
        (rule, lambda fields=fields: policy(**fields))
        for rule, cases in BOUNDS.items()
        for fields in cases
    ),
    ("prompt_once", prompt_twice),
    ("prompt_split_known", lambda: factories.PromptFactory.create(split="test")),
    ("prompt_has_hash", lambda: factories.PromptFactory.create(sha256="short")),
    ("completion_engine_has_version_and_ids", lambda: completion(version=None)),
    ("completion_engine_has_version_and_ids", lambda: completion(prompt_ids=None)),
    ("completion_engine_has_version_and_ids", lambda: completion(completion_ids=None)),
    ("completion_engine_has_version_and_ids", lambda: completion(origin="import")),
    (
        "completion_engine_has_version_and_ids",
        lambda: completion(origin="edit", version=None, prompt_ids=None),
    ),
    (
        "completion_origin_known",
        lambda: completion(origin="other", version=None, prompt_ids=None, completion_ids=None),
    ),
    ("pair_of_two_in_order", pair_in_the_wrong_order),
    ("pair_purpose_known", lambda: pair(purpose="other")),
    ("pair_once", pair_twice),
    # Held out, and said to be so: the check refuses. Said to be trained on: the foreign key does.
    (
        "pair_purpose_fits_split",
        lambda: pair(prompt__split=Split.HOLDOUT, purpose=Pair.Purpose.TRAIN),
    ),
    ("pair_purpose_fits_split", lambda: pair(purpose=Pair.Purpose.EVAL)),
    ("pair_prompt_split", lambda: pair(prompt__split=Split.HOLDOUT, prompt_split=Split.TRAIN)),
    ("pair_prompt_split", lambda: pair(prompt_split=Split.HOLDOUT)),
    ("pair_prompt_split", prompt_that_changes_sides),
    (
        "pair_compare_has_comparison",
        lambda: pair(prompt__split=Split.HOLDOUT, purpose=Pair.Purpose.COMPARE),
    ),
    (
        "pair_compare_has_comparison",
        lambda: pair(comparison=factories.ComparisonFactory.create()),
    ),
    ("pair_first_of_prompt", lambda: pair_with_a_completion_of_another_prompt("first")),
    ("pair_second_of_prompt", lambda: pair_with_a_completion_of_another_prompt("second")),
    (
        "queue_leases_within_wanted",
        lambda: factories.QueueEntryFactory.create(wanted=1, leased=2),
    ),
    ("assignment_once_per_labeler", lease_twice),
    ("judgement_revision_once", revision_twice),
    ("judgement_input_known", lambda: judgement(input="mouse")),
    ("tally_once", tally_twice),
    ("judgement_verdict_known", lambda: judgement(verdict="best", winner=None)),
    ("judgement_decided_has_winner", lambda: judgement(winner=None)),
    (
        "judgement_decided_has_winner",
        lambda: judgement(verdict="tie", winner=factories.CompletionFactory.create()),
    ),
    ("import_format_known", lambda: factories.ImportFactory.create(format="csv")),
    ("import_failed_says_why", lambda: factories.ImportFactory.create(state="failed")),
    ("import_failed_says_why", lambda: factories.ImportFactory.create(failure="Because.")),
    ("import_failed_says_why", lambda: factories.ImportFactory.create(state="paused")),
    ("import_done_within_total", lambda: factories.ImportFactory.create(done=1)),
    ("imported_preference_once", preference_twice),
    ("imported_preference_target_bounds", lambda: preference(target=0.49)),
    ("imported_preference_target_bounds", lambda: preference(target=1.01)),
    ("imported_preference_target_bounds", lambda: preference(target=nan)),
    ("imported_preference_has_hash", lambda: preference(sha256="short")),
    ("drop_once_per_reason", drop_twice),
    ("drop_reason_known", drop_for_no_reason),
    ("comparison_drop_once_per_prompt", left_out_twice),
    (
        "comparison_drop_reason_known",
        lambda: factories.ComparisonDropFactory.create(reason="other"),
    ),
]
#: Targets of composite foreign keys; `id` alone is unique already, so nothing can break them.
TARGETS = {"prompt_split", "completion_of_prompt", "pair_of_prompt"}


class TestRules:
    @pytest.mark.parametrize(("rule", "breach"), BREACHES, ids=[rule for rule, _ in BREACHES])
    def test_refuse(self, rule: str, breach: Callable[[], object]) -> None:
        with refused_by(rule):
            breach()

    def test_are_all_tested(self) -> None:
        assert rules_of("annotate") == {rule for rule, _ in BREACHES} | TARGETS

    def test_hold_at_the_end_of_a_transaction_that_puts_them_off(self) -> None:
        other = factories.CompletionFactory.create()
        good = pair()

        with refused_by("pair_first_of_prompt"):
            execute("SET CONSTRAINTS ALL DEFERRED")
            Pair.objects.filter(pk=good.pk).update(first=other)
            execute("SET CONSTRAINTS ALL IMMEDIATE")

    def test_let_a_repeated_pair_be_shown_twice(self) -> None:
        first = pair()

        assert pair(
            prompt=first.prompt, first=first.first, second=first.second, purpose="repeat"
        ).pk

    def test_let_imported_completions_be_without_version_and_ids(self) -> None:
        completion(origin="import", version=None, prompt_ids=None, completion_ids=None)


class TestQueueEntry:
    def test_has_no_fewer_leases_than_none(self) -> None:
        entry = factories.QueueEntryFactory.create()

        with refused_by("annotate_queueentry_leased_check"):
            QueueEntry.objects.filter(pk=entry.pk).update(leased=-1)


class TestJudgement:
    def test_cannot_be_rewritten(self) -> None:
        judgement()

        with refused_by("annotate_judgement is append-only"):
            Judgement.objects.update(note="Something else.")

    def test_cannot_be_deleted(self) -> None:
        judgement()

        with refused_by("annotate_judgement is append-only"):
            Judgement.objects.all().delete()

    def test_grows_by_revisions(self) -> None:
        first = judgement()

        assert judgement(assignment=first.assignment, revision=2, verdict="").pk
