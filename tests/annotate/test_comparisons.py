from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import User

from annotate import comparisons, judging, queries, tasks, triples
from annotate.models import (
    Assignment,
    ComparisonDrop,
    Completion,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    Split,
    Verdict,
)
from models_registry import serving
from models_registry.actions import BudgetInvalid, comparison_close
from models_registry.engine.fake import FakeEngine
from models_registry.engine.types import EngineFailed, EngineRejected
from models_registry.models import Comparison, ModelVersion, Outcome
from pairloop.lib import jobs
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def comparison() -> Comparison:
    """v1 against v0 on up to eight prompts, of which two may wait at once."""
    opened = factories.ComparisonFactory.create(budget=8)
    JudgingPolicy.objects.filter(model=opened.model).update(queue_target=6)
    return opened


@pytest.fixture
def engine(comparison: Comparison) -> FakeEngine:
    """An engine that serves both versions and was checked to."""
    fake = FakeEngine()
    for version in (comparison.candidate, comparison.incumbent):
        fake.adapters[version.served_name] = f"/versions/{version.pk}"
        factories.ServingFactory.create(
            version=version, engine=serving.urls()[0], loaded_at=NOW, canary={"passed": True}
        )
    return fake


def held_out(comparison: Comparison, number: int) -> list[Prompt]:
    return factories.PromptFactory.create_batch(number, model=comparison.model, split=Split.HOLDOUT)


def top_up(comparison: Comparison, engine: FakeEngine) -> int:
    return comparisons.pairs_top_up(model=comparison.model, engine=engine, chance=random.Random(1))


def answers(
    prompt: Prompt, version: ModelVersion, *texts: str, finish_reason: str = "stop"
) -> list[Completion]:
    """Store what a version answered in an evaluation."""
    sampling = queries.sampling_as_judged(queries.policy_of(prompt.model))
    return [
        factories.CompletionFactory.create(
            prompt=prompt, version=version, text=text, finish_reason=finish_reason,
            sampling=queries.evaluation_sampling(sampling),
        )
        for text in texts
    ]  # fmt: skip


def pair_of(comparison: Comparison, *, candidate_first: bool = True) -> Pair:
    """Make a pair of a comparison, written in this order."""
    prompt = factories.PromptFactory.create(
        model=comparison.model, split=Split.HOLDOUT, tags=["code"]
    )
    order = [comparison.candidate, comparison.incumbent]
    for version in order if candidate_first else reversed(order):
        factories.CompletionFactory.create(prompt=prompt, version=version)
    first, second = prompt.completions.order_by("pk")
    return factories.PairFactory.create(
        prompt=prompt, first=first, second=second, purpose=Pair.Purpose.COMPARE,
        comparison=comparison,
    )  # fmt: skip


def judge(pair: Pair, verdict: str, labeler: User | None = None, **fields: object) -> Assignment:
    lease = factories.AssignmentFactory.create(
        pair=pair, labeler=labeler or factories.UserFactory.create(), **fields
    )
    judging.judgement_record(assignment=lease, verdict=verdict, now=NOW)
    return lease


class TestComparisonOpen:
    def test_counts_the_prompts_that_are_held_out(self, comparison: Comparison) -> None:
        held_out(comparison, 2)
        held_out(comparison, 1)[0].refusal = "Too long."
        Prompt.objects.filter(pk=Prompt.objects.order_by("-pk")[0].pk).update(refusal="Too long.")
        comparison_close(comparison=comparison, now=NOW)

        def opened(budget: int) -> Comparison:
            return comparisons.comparison_open(
                model=comparison.model, candidate=comparison.candidate,
                incumbent=comparison.incumbent, budget=budget, by=factories.UserFactory.create(),
            )  # fmt: skip

        with pytest.raises(BudgetInvalid, match="Choose 1 to 2 prompts"):
            opened(3)
        assert opened(2).is_open


class TestPairsTopUp:
    def test_asks_both_versions_the_same_and_queues_their_pairs(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 5)

        assert top_up(comparison, engine) == 2

        assert len({sampling for _, _, sampling in engine.asked}) == 1
        for pair in Pair.objects.all():
            assert pair.purpose == Pair.Purpose.COMPARE
            assert {pair.first.version, pair.second.version} == {
                comparison.candidate, comparison.incumbent,
            }  # fmt: skip
            assert pair.queue_entry.wanted == 1

    def test_lets_no_more_than_a_third_of_the_queue_wait(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 5)
        top_up(comparison, engine)

        assert top_up(comparison, engine) == 0

        QueueEntry.objects.order_by("pair").first().delete()
        assert top_up(comparison, engine) == 1

    def test_leaves_room_for_pairs_to_train_on(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 5)
        top_up(comparison, engine)

        sampler = comparison.incumbent
        assert queries.pairs_missing(version=sampler, target=4) == 4
        assert queries.queue_length(comparison.model) == 2

    def test_mixes_them_with_the_samplers_pairs(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        JudgingPolicy.objects.update(queue_target=24)
        held_out(comparison, 8)

        top_up(comparison, engine)

        # v0 samples: its pairs have priorities from -2 to 0.
        assert set(QueueEntry.objects.values_list("priority", flat=True)) == {-2, -1, 0}

    def test_takes_what_an_evaluation_answered(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        (prompt,) = held_out(comparison, 1)
        answers(prompt, comparison.candidate, "One two.", "Three four.", "Five six.")
        answers(prompt, comparison.incumbent, "Seven.", "Eight.", "Nine.")

        top_up(comparison, engine)

        assert engine.asked == []
        assert Pair.objects.count() == 1

    def test_keeps_what_it_sampled_for_evaluations(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        prompts = held_out(comparison, 1)
        top_up(comparison, engine)

        known = queries.completions_of_evaluation(
            version=comparison.candidate, prompts=prompts,
            sampling=queries.sampling_as_judged(queries.policy_of(comparison.model)),
        )  # fmt: skip
        assert len(known[prompts[0].pk]) == 3

    @pytest.mark.parametrize(
        ("text", "finish_reason", "reason"),
        [
            ("The same.", "stop", "near_identical"),
            ("Cut off in the", "length", "truncated"),
            (" ", "stop", "empty"),
            ("I am ChatGPT.", "stop", "identity"),
        ],
    )
    def test_leaves_out_what_nobody_should_judge(
        self,
        comparison: Comparison,
        engine: FakeEngine,
        text: str,
        finish_reason: str,
        reason: str,
    ) -> None:
        (prompt,) = held_out(comparison, 1)
        answers(prompt, comparison.candidate, text, finish_reason=finish_reason)
        answers(prompt, comparison.incumbent, "The same.")

        assert top_up(comparison, engine) == 0
        assert top_up(comparison, engine) == 0

        assert ComparisonDrop.objects.get().reason == reason
        progress = queries.comparison_progress(comparison)
        assert list(progress.left_out.values()) == [1]
        assert progress.left_out_count == 1

    def test_judges_no_pair_twice_in_a_later_comparison(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        (prompt,) = held_out(comparison, 1)
        answers(prompt, comparison.candidate, "One.")
        answers(prompt, comparison.incumbent, "Other.")
        top_up(comparison, engine)
        comparison_close(comparison=comparison, now=NOW)

        later = factories.ComparisonFactory.create(model=comparison.model)
        top_up(later, engine)

        assert ComparisonDrop.objects.get().reason == "used"

    def test_uses_no_more_prompts_than_its_budget(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        Comparison.objects.update(budget=1)
        held_out(comparison, 3)

        assert top_up(comparison, engine) == 1
        assert top_up(comparison, engine) == 0

    def test_waits_until_the_engine_serves_both(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 1)
        del engine.adapters[comparison.candidate.served_name]

        assert top_up(comparison, engine) == 0
        assert engine.asked == []

    def test_asks_nothing_without_an_open_comparison(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 1)
        comparison_close(comparison=comparison, now=NOW)

        assert top_up(comparison, engine) == 0

    def test_waits_while_a_round_trains_and_enough_pairs_wait(
        self, comparison: Comparison, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held_out(comparison, 1)
        monkeypatch.setattr(queries, "top_up_can_wait", lambda model: True)

        assert top_up(comparison, engine) == 0

    def test_passes_over_a_prompt_that_the_engine_refuses(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        (prompt,) = held_out(comparison, 1)
        engine.enqueue(EngineRejected("Too long."), ["Hello."])

        assert top_up(comparison, engine) == 0

        prompt.refresh_from_db()
        assert prompt.refusal == "Too long."
        assert not ComparisonDrop.objects.exists()

    def test_keeps_what_came_before_an_error(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 1)
        engine.enqueue(EngineFailed("Out of memory."))

        with pytest.raises(EngineFailed):
            top_up(comparison, engine)

        assert top_up(comparison, engine) == 1


class TestOutcome:
    @pytest.mark.parametrize("candidate_first", [True, False])
    @pytest.mark.parametrize("first_is_left", [True, False])
    @pytest.mark.parametrize("verdict", ["left", "left_much", "right", "right_much"])
    def test_is_won_by_the_version_that_wrote_the_better_answer(
        self, comparison: Comparison, candidate_first: bool, first_is_left: bool, verdict: str
    ) -> None:
        pair = pair_of(comparison, candidate_first=candidate_first)

        lease = judge(pair, verdict, first_is_left=first_is_left)

        outcome = Outcome.objects.get()
        candidate_left = candidate_first == first_is_left
        candidate_wins = candidate_left == verdict.startswith("left")
        assert outcome.winner == (comparison.candidate if candidate_wins else comparison.incumbent)
        assert outcome.candidate_left is candidate_left
        assert (outcome.comparison, outcome.source) == (comparison, lease.uuid)
        assert (outcome.labeler, outcome.recorded_at) == (lease.labeler, NOW)
        assert (outcome.prompt_key, outcome.tags) == (pair.prompt.sha256, ["code"])
        assert (outcome.candidate_tokens, outcome.incumbent_tokens) == (3, 3)

    @pytest.mark.parametrize("verdict", ["tie", "both_bad"])
    def test_without_a_winner_keeps_what_was_said(
        self, comparison: Comparison, verdict: str
    ) -> None:
        judge(pair_of(comparison), verdict)

        outcome = Outcome.objects.get()
        assert (outcome.kind, outcome.winner) == (verdict, None)

    def test_is_not_made_by_somebody_who_cannot_judge(self, comparison: Comparison) -> None:
        judge(pair_of(comparison), Verdict.CANNOT_JUDGE)

        assert not Outcome.objects.exists()

    def test_is_not_made_by_other_pairs(self) -> None:
        judge(factories.PairFactory.create(), "left")

        assert not Outcome.objects.exists()

    def test_is_recorded_once(self, comparison: Comparison) -> None:
        lease = judge(pair_of(comparison), "left")

        judging.judgement_record(assignment=lease, verdict="right", now=NOW)

        assert Outcome.objects.count() == 1

    def test_is_withdrawn_with_its_judgement_and_may_be_another(
        self, comparison: Comparison
    ) -> None:
        lease = judge(pair_of(comparison), "left")

        judging.judgement_undo(assignment=lease, now=NOW)

        assert Outcome.objects.get().withdrawn_at == NOW

        judging.judgement_record(assignment=lease, verdict="tie", now=NOW)

        assert Outcome.objects.get(withdrawn_at=None).kind == "tie"

    def test_is_replaced_by_a_revision(self, comparison: Comparison) -> None:
        lease = judge(pair_of(comparison), "left")

        judging.judgement_record(assignment=lease, verdict="both_bad", now=NOW, revise=True)

        assert Outcome.objects.get(withdrawn_at=None).kind == "both_bad"
        assert Outcome.objects.exclude(withdrawn_at=None).count() == 1

    def test_makes_no_triple(self, comparison: Comparison) -> None:
        judge(pair_of(comparison), "left")

        for purpose in (Pair.Purpose.TRAIN, Pair.Purpose.EVAL):
            assert not triples.triple_pairs(model=comparison.model, purpose=purpose).exists()


class TestComparisonsSettle:
    def settle(self) -> Comparison:
        tasks.comparisons_settle()
        return Comparison.objects.get()

    def outcomes(self, comparison: Comparison, wins: int, losses: int = 0) -> None:
        labelers = factories.UserFactory.create_batch(3)
        Outcome.objects.bulk_create(
            Outcome(
                comparison=comparison, kind="win", source=uuid.uuid4(), recorded_at=NOW,
                winner=comparison.candidate if n < wins else comparison.incumbent,
                prompt_key=factories.sha256(str(n)), labeler=labelers[n % 3],
            )
            for n in range(wins + losses)
        )  # fmt: skip

    def test_decides_when_every_condition_holds(self, comparison: Comparison) -> None:
        held_out(comparison, 1)
        self.outcomes(comparison, wins=102)

        settled = self.settle()

        assert settled.state == Comparison.State.DECIDED
        assert settled.ended_at

    def test_decides_when_more_votes_are_futile(self, comparison: Comparison) -> None:
        held_out(comparison, 1)
        self.outcomes(comparison, wins=10, losses=40)

        assert self.settle().state == Comparison.State.DECIDED

    def test_waits_for_prompts_that_are_left(self, comparison: Comparison) -> None:
        held_out(comparison, 1)
        self.outcomes(comparison, wins=50)

        assert self.settle().is_open

    def test_waits_for_pairs_that_are_queued(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 1)
        top_up(comparison, engine)

        assert self.settle().is_open

    def test_closes_when_its_prompts_are_judged(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 1)
        top_up(comparison, engine)
        lease = judging.pair_assign(
            model_id=comparison.model.pk, labeler=factories.UserFactory.create(), now=NOW
        )
        judging.judgement_record(assignment=lease, verdict="left", now=NOW)

        assert self.settle().state == Comparison.State.CLOSED
        assert queries.comparison_progress(comparison).judged == 1

    def test_frees_the_queue_of_what_has_ended(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 2)
        top_up(comparison, engine)
        lease = judging.pair_assign(
            model_id=comparison.model.pk, labeler=factories.UserFactory.create(), now=NOW
        )
        other = factories.QueueEntryFactory.create(pair__prompt__model=comparison.model)
        comparison_close(comparison=comparison, now=NOW)

        self.settle()

        # Whoever reads a pair just now may finish it.
        assert set(QueueEntry.objects.values_list("pair", flat=True)) == {
            lease.pair_id, other.pair_id,
        }  # fmt: skip


class TestAnswersWrite:
    def test_writes_what_is_missing_and_nothing_else(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        prompts = held_out(comparison, 2)
        versions = [comparison.candidate, comparison.incumbent]
        greedy = queries.sampling_greedy(queries.policy_of(comparison.model))

        comparisons.answers_write(versions=versions, engine=engine)
        comparisons.answers_write(versions=versions, engine=engine)

        assert len(engine.asked) == 4
        for version in versions:
            known = queries.completions_of_evaluation(
                version=version, prompts=prompts, sampling=greedy
            )
            assert set(known) == {prompt.pk for prompt in prompts}

    def test_passes_over_who_is_not_served(
        self, comparison: Comparison, engine: FakeEngine
    ) -> None:
        held_out(comparison, 1)
        del engine.adapters[comparison.candidate.served_name]

        comparisons.answers_write(
            versions=[comparison.candidate, comparison.incumbent], engine=engine
        )

        assert [asked[0] for asked in engine.asked] == [comparison.incumbent.served_name]

    def test_is_asked_for_once(self, comparison: Comparison, no_jobs: None) -> None:
        versions = {"candidate": comparison.candidate, "incumbent": comparison.incumbent}
        assert not queries.answers_are_coming(**versions)

        comparisons.answers_ask(**versions)
        comparisons.answers_ask(**versions)

        assert queries.answers_are_coming(**versions)
        assert jobs.ProcrastinateJob.objects.count() == 1


class TestTasks:
    @pytest.fixture(autouse=True)
    def _served(self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        @contextmanager
        def opened(url: str) -> Iterator[FakeEngine]:
            yield engine

        monkeypatch.setattr(serving, "engine", opened)

    def test_top_up_both_kinds_of_pairs(self, comparison: Comparison) -> None:
        held_out(comparison, 2)
        factories.PromptFactory.create(model=comparison.model)

        tasks.pairs_top_up()

        purposes = set(Pair.objects.values_list("purpose", flat=True))
        assert purposes == {Pair.Purpose.TRAIN, Pair.Purpose.COMPARE}

    def test_write_answers(self, comparison: Comparison) -> None:
        held_out(comparison, 1)

        tasks.answers_write(
            candidate_id=comparison.candidate_id, incumbent_id=comparison.incumbent_id
        )

        assert Completion.objects.count() == 2

    def test_leave_answers_for_later_when_the_engine_fails(
        self, comparison: Comparison, engine: FakeEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        held_out(comparison, 1)
        engine.up = False

        tasks.answers_write(
            candidate_id=comparison.candidate_id, incumbent_id=comparison.incumbent_id
        )

        assert "stopped" in caplog.text
