from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotate import checks, judging, queries, triples
from annotate.api.serializers import AssignmentOut
from annotate.models import (
    Assignment,
    Gold,
    Judgement,
    JudgingPolicy,
    Pair,
    QueueEntry,
    Repeat,
    Split,
    Tally,
    Verdict,
)
from models_registry.models import Outcome, RegisteredModel
from tests import factories
from training import queries as training

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
#: Tosses below both shares: always a check.
ALWAYS_GOLD = JudgingPolicy(gold_share=1.0, repeat_share=0.0)
ALWAYS_REPEAT = JudgingPolicy(gold_share=0.0, repeat_share=1.0)


@pytest.fixture
def model() -> RegisteredModel:
    return factories.RegisteredModelFactory.create(slug="demo")


@pytest.fixture
def labeler() -> User:
    return factories.UserFactory.create(username="lee")


@pytest.fixture
def admin() -> User:
    return factories.UserFactory.create(username="ada", is_staff=True)


@pytest.fixture
def waiting(model: RegisteredModel) -> Pair:
    """An ordinary pair that waits, without which no check comes."""
    pair = factories.PairFactory.create(prompt__model=model)
    factories.QueueEntryFactory.create(pair=pair)
    return pair


def judged(
    model: RegisteredModel,
    labeler: User | None = None,
    *,
    verdict: str = Verdict.LEFT,
    at: datetime = NOW,
    **fields: Any,
) -> Judgement:
    """Let somebody judge a new pair, first answer on the left, at a moment."""
    pair = factories.PairFactory.create(prompt__model=model, **fields)
    who = {"labeler": labeler} if labeler else {}
    lease = factories.AssignmentFactory.create(
        pair=pair, assigned_at=at - timedelta(minutes=1), closed_at=at, **who
    )
    return factories.JudgementFactory.create(assignment=lease, verdict=verdict, judged_at=at)


def past(model: RegisteredModel, labeler: User, count: int, **said: Any) -> list[Judgement]:
    """Let a labeler judge pairs, a minute apart, the last one a minute ago; return them, the oldest first."""
    return [
        judged(model, labeler, at=NOW - timedelta(minutes=count - n), **said) for n in range(count)
    ]


def tally_of(model: RegisteredModel, labeler: User, *, judged: int = 1000) -> Tally:
    tally, _ = Tally.objects.update_or_create(
        model=model, labeler=labeler, defaults={"judged": judged, "since_repeat": 1000}
    )
    return tally


def next_check(
    model: RegisteredModel,
    labeler: User,
    policy: JudgingPolicy,
    *,
    tally: Tally | None = None,
    seed: int = 1,
    first_left: bool = True,
) -> Assignment | None:
    return checks.check_next(
        tally=tally or tally_of(model, labeler),
        policy=policy,
        now=NOW,
        chance=random.Random(seed),
        first_left=first_left,
    )


def gold(model: RegisteredModel, admin: User, **fields: Any) -> Gold:
    pair = judged(model, **fields).assignment.pair
    return checks.gold_make(pair=pair, expected=pair.first_id, why="It is true.", by=admin, now=NOW)


class TestMakingGold:
    def test_copies_the_pair_and_keeps_why(self, model: RegisteredModel, admin: User) -> None:
        original = judged(model).assignment.pair

        made = checks.gold_make(
            pair=original, expected=original.second_id, why="B is true.", by=admin, now=NOW
        )

        assert (made.pair.purpose, made.original, made.why) == ("gold", original, "B is true.")
        assert (made.pair.first, made.pair.second) == (original.first, original.second)
        assert (made.expected, made.made_by) == (original.second, admin)
        assert not QueueEntry.objects.filter(pair=made.pair).exists()

    @pytest.mark.parametrize("purpose", ["train", "eval", "compare"])
    def test_takes_a_pair_of_any_purpose(
        self, model: RegisteredModel, admin: User, purpose: str
    ) -> None:
        fields: dict[str, Any] = {"purpose": purpose}
        if purpose != "train":
            fields["prompt__split"] = Split.HOLDOUT
        if purpose == "compare":
            fields["comparison"] = factories.ComparisonFactory.create(model=model)

        made = gold(model, admin, **fields)

        assert made.pair.comparison is None
        assert made.pair.prompt_split == made.original.prompt_split

    def test_refuses_a_pair_that_nobody_judged(self, model: RegisteredModel, admin: User) -> None:
        pair = factories.PairFactory.create(prompt__model=model)

        with pytest.raises(checks.GoldImpossible):
            checks.gold_make(pair=pair, expected=pair.first_id, why="", by=admin, now=NOW)

    def test_refuses_an_answer_of_another_pair(self, model: RegisteredModel, admin: User) -> None:
        pair, other = judged(model).assignment.pair, factories.PairFactory.create()

        with pytest.raises(checks.GoldExpects):
            checks.gold_make(pair=pair, expected=other.first_id, why="", by=admin, now=NOW)

    def test_refuses_a_second_one_and_one_of_a_check(
        self, model: RegisteredModel, admin: User
    ) -> None:
        made = gold(model, admin)
        lease = factories.AssignmentFactory.create(pair=made.pair)
        factories.JudgementFactory.create(assignment=lease)

        for pair, why in ((made.original, checks.GoldKnown), (made.pair, checks.GoldImpossible)):
            with pytest.raises(why):
                checks.gold_make(pair=pair, expected=pair.first_id, why="", by=admin, now=NOW)

    def test_retired_it_is_not_served_and_made_again_it_is(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        made = gold(model, admin)
        checks.gold_retire(gold=made, now=NOW)
        assert next_check(model, labeler, ALWAYS_GOLD) is None

        again = checks.gold_make(
            pair=made.original, expected=made.original.second_id, why="", by=admin, now=NOW
        )

        assert (again.pk, again.expected) == (made.pk, made.original.second)
        assert next_check(model, labeler, ALWAYS_GOLD) is not None

    def test_asks_for_no_second_opinions_on_the_original(
        self, model: RegisteredModel, admin: User
    ) -> None:
        pair = judged(model).assignment.pair
        factories.QueueEntryFactory.create(pair=pair)

        checks.gold_make(pair=pair, expected=pair.first_id, why="", by=admin, now=NOW)

        assert not QueueEntry.objects.exists()


class TestServingGold:
    def test_comes_once_for_each_labeler(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        made = gold(model, admin)

        served = next_check(model, labeler, ALWAYS_GOLD)
        assert served is not None
        assert served.pair == made.pair
        assert next_check(model, labeler, ALWAYS_GOLD) is None

        served.closed_at = NOW
        served.save()
        factories.JudgementFactory.create(assignment=served)
        assert next_check(model, labeler, ALWAYS_GOLD) is None
        assert next_check(model, factories.UserFactory.create(), ALWAYS_GOLD) is not None

    def test_comes_again_when_its_lease_ended_unjudged(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        gold(model, admin)
        served = next_check(model, labeler, ALWAYS_GOLD)
        assert served is not None
        Assignment.objects.filter(pk=served.pk).update(closed_at=NOW)

        again = next_check(model, labeler, ALWAYS_GOLD, seed=2)

        assert again is not None
        assert (again.pk, again.first_is_left) == (served.pk, served.first_is_left)
        assert again.closed_at is None

    def test_never_comes_to_one_who_had_the_original(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        pair = judged(model, labeler).assignment.pair
        checks.gold_make(pair=pair, expected=pair.first_id, why="", by=admin, now=NOW)

        assert next_check(model, labeler, ALWAYS_GOLD) is None

    def test_does_not_come_when_nothing_waits(
        self, model: RegisteredModel, admin: User, labeler: User
    ) -> None:
        gold(model, admin)

        assert next_check(model, labeler, ALWAYS_GOLD) is None
        factories.QueueEntryFactory.create(pair__prompt__model=model, opinions=1)
        assert next_check(model, labeler, ALWAYS_GOLD) is None
        factories.QueueEntryFactory.create(pair__prompt__model=model, leased=1)
        assert next_check(model, labeler, ALWAYS_GOLD) is None
        factories.QueueEntryFactory.create()
        assert next_check(model, labeler, ALWAYS_GOLD) is None

    def test_of_another_model_does_not_come(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        gold(factories.RegisteredModelFactory.create(), admin)

        assert next_check(model, labeler, ALWAYS_GOLD) is None

    def test_is_on_top_of_the_queue(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        gold(model, admin)
        served = next_check(model, labeler, ALWAYS_GOLD)

        assert served is not None
        assert served.is_on_top
        assert QueueEntry.objects.get().leased == 0

    def test_looks_like_any_other_pair(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        """The same keys, kinds and lengths in JSON: nothing for a labeler, or a script of theirs, to go by."""
        gold(model, admin)
        served = next_check(model, labeler, ALWAYS_GOLD)
        assert served is not None
        ordinary = queries.assignment_with_pair(
            factories.AssignmentFactory.create(
                pair=waiting, labeler=labeler, assigned_at=NOW, expires_at=served.expires_at
            ).uuid
        )

        shapes = [
            _shape(AssignmentOut(one, context={"guidelines_version": 1}).data)
            for one in (served, ordinary)
        ]

        assert shapes[0] == shapes[1]
        assert "gold" not in json.dumps(
            AssignmentOut(served, context={"guidelines_version": 1}).data
        )

    @pytest.mark.parametrize("first_left", [True, False])
    def test_has_the_sides_that_were_tossed_and_counts_them(
        self,
        model: RegisteredModel,
        admin: User,
        labeler: User,
        waiting: Pair,
        first_left: bool,
    ) -> None:
        gold(model, admin)

        served = next_check(model, labeler, ALWAYS_GOLD, first_left=first_left)

        assert served is not None
        assert served.first_is_left is first_left
        tally = Tally.objects.get()
        assert tally.sides_lead == (1 if first_left else -1)
        # Whoever waited for the lock has to look again.
        assert tally.turn == 1


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shape(one) for one in value]
    return type(value).__name__


class TestServingRepeats:
    def test_swaps_the_sides_of_one_that_lies_far_back(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        said = past(model, labeler, 53)

        served = next_check(model, labeler, ALWAYS_REPEAT)

        assert served is not None
        original = Repeat.objects.get(assignment=served).original
        assert original in [one.assignment for one in said[:3]]
        assert served.pair.purpose == "repeat"
        assert served.left.text == original.right.text
        assert served.first_is_left is not original.first_is_left
        assert served.is_on_top

    def test_needs_fifty_judgements_in_between(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        past(model, labeler, 50)

        assert next_check(model, labeler, ALWAYS_REPEAT) is None

    def test_does_not_count_leases_that_ended_unjudged(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        past(model, labeler, 50)
        for _ in range(10):
            factories.AssignmentFactory.create(
                labeler=labeler, closed_at=NOW, pair__prompt__model=model
            )

        assert next_check(model, labeler, ALWAYS_REPEAT) is None

    def test_repeats_each_one_once_and_no_repeat(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        past(model, labeler, 52)
        served = [next_check(model, labeler, ALWAYS_REPEAT, seed=seed) for seed in range(3)]

        assert [one is None for one in served] == [False, False, True]
        assert Repeat.objects.values("original").distinct().count() == 2

    @pytest.mark.parametrize("verdict", [Verdict.TIE, Verdict.BOTH_BAD, Verdict.CANNOT_JUDGE])
    def test_repeats_only_what_was_decided(
        self, model: RegisteredModel, labeler: User, waiting: Pair, verdict: str
    ) -> None:
        past(model, labeler, 55, verdict=verdict)

        assert next_check(model, labeler, ALWAYS_REPEAT) is None

    def test_repeats_nothing_of_others_and_of_other_models(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        past(model, factories.UserFactory.create(), 55)
        past(factories.RegisteredModelFactory.create(), labeler, 55)

        assert next_check(model, labeler, ALWAYS_REPEAT) is None

    def test_comes_again_when_its_lease_ended_unjudged(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        past(model, labeler, 51)
        served = next_check(model, labeler, ALWAYS_REPEAT)
        assert served is not None
        Assignment.objects.filter(pk=served.pk).update(closed_at=NOW)

        again = next_check(model, labeler, ALWAYS_REPEAT)

        assert again is not None
        assert (again.pk, again.first_is_left) == (served.pk, served.first_is_left)

    def test_reads_as_much_of_a_long_past_as_of_a_short_one(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        tally = tally_of(model, labeler)
        past(model, labeler, 52)
        with CaptureQueriesContext(connection) as short:
            assert next_check(model, labeler, ALWAYS_REPEAT, tally=tally)
        past(model, labeler, 200)
        with CaptureQueriesContext(connection) as long:
            assert next_check(model, labeler, ALWAYS_REPEAT, tally=tally)

        assert len(long) == len(short)
        seen = checks.PAST.rows({"labeler": labeler.pk, "model": model.pk})
        assert len(seen) == checks.REPEAT_AFTER + checks.REPEAT_FROM


class TestTheCoin:
    def test_decides_before_anything_is_read(self, model: RegisteredModel, labeler: User) -> None:
        tally, never = tally_of(model, labeler), JudgingPolicy(gold_share=0, repeat_share=0)

        with CaptureQueriesContext(connection) as captured:
            assert next_check(model, labeler, never, tally=tally) is None

        assert len(captured) == 0

    def test_falls_as_often_as_the_policy_says(
        self, model: RegisteredModel, labeler: User, waiting: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served: list[str] = []
        monkeypatch.setattr(checks, "_gold_next", lambda *_, **__: served.append("gold"))
        monkeypatch.setattr(checks, "_repeat_next", lambda *_: served.append("repeat"))
        chance, policy = random.Random(4), JudgingPolicy(gold_share=0.1, repeat_share=0.05)
        tally = tally_of(model, labeler)

        for _ in range(2000):
            checks.check_next(
                tally=tally, policy=policy, now=NOW, chance=chance,
            )  # fmt: skip

        assert 160 < served.count("gold") < 240
        assert 70 < served.count("repeat") < 130

    def test_repeats_nothing_to_a_newcomer_and_asks_nothing(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        past(model, labeler, 51)

        tally = tally_of(model, labeler, judged=49)

        assert next_check(model, labeler, ALWAYS_REPEAT, tally=tally) is None

    def test_keeps_repeats_apart(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        past(model, labeler, 60)
        assert next_check(model, labeler, ALWAYS_REPEAT) is not None
        tally = Tally.objects.get()
        assert tally.since_repeat == 0

        for judged, is_served in ((4, False), (5, True)):
            tally.since_repeat = judged
            served = next_check(model, labeler, ALWAYS_REPEAT, tally=tally)
            assert (served is not None) is is_served


def judge(lease: Assignment, verdict: str = Verdict.RIGHT) -> None:
    judging.judgement_record(assignment=lease, verdict=verdict, now=NOW)


class TestNothingIsLearnedFromChecks:
    @pytest.fixture
    def checked(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> list[Pair]:
        """A gold pair of a train pair and one of a held-out one, and a repeat, all judged."""
        comparison = factories.ComparisonFactory.create(model=model)
        for fields in (
            {},
            {"prompt__split": Split.HOLDOUT, "purpose": "eval"},
            {"prompt__split": Split.HOLDOUT, "purpose": "compare", "comparison": comparison},
        ):
            gold(model, admin, **fields)
        past(model, labeler, 51)
        leases = [next_check(model, labeler, ALWAYS_GOLD) for _ in range(3)]
        leases.append(next_check(model, labeler, ALWAYS_REPEAT))
        for lease in leases:
            assert lease is not None
            judge(lease)
        return [lease.pair for lease in leases if lease]

    def test_they_make_no_triples(self, model: RegisteredModel, checked: list[Pair]) -> None:
        ids = {pair.pk for pair in checked}

        for purpose in (Pair.Purpose.TRAIN, Pair.Purpose.EVAL):
            found = triples.triple_pairs(model=model, purpose=purpose)
            assert not ids & set(found.values_list("pk", flat=True))

    def test_they_enter_no_snapshot(self, model: RegisteredModel, checked: list[Pair]) -> None:
        drawn = {
            pair.pk
            for pairs in (training.pairs_new(model), training.pairs_held_out(model, most=100))
            for pair in pairs
        }

        assert drawn
        assert not drawn & {pair.pk for pair in checked}

    def test_they_count_in_no_comparison(self, model: RegisteredModel, checked: list[Pair]) -> None:
        assert not Outcome.objects.exists()

    def test_they_replace_no_judgement(self, model: RegisteredModel, checked: list[Pair]) -> None:
        original = Repeat.objects.get().original

        assert Judgement.objects.filter(assignment=original).count() == 1
        assert Judgement.objects.get(assignment=original).verdict == Verdict.LEFT

    def test_they_touch_no_queue(self, model: RegisteredModel, checked: list[Pair]) -> None:
        assert QueueEntry.objects.count() == 1


class TestTheTurn:
    """Through the same door as every pair."""

    def test_brings_gold_pairs_now_and_then(
        self, model: RegisteredModel, admin: User, waiting: Pair
    ) -> None:
        made = gold(model, admin)
        JudgingPolicy.objects.filter(model=model).update(gold_share=0.2, repeat_share=0)
        QueueEntry.objects.update(wanted=100)

        served = [
            judging.pair_assign(model_id=model.pk, labeler=one, now=NOW).pair.purpose
            for one in factories.UserFactory.create_batch(60)
        ]

        assert set(served) == {"train", "gold"}
        assert served.count("gold") == made.pair.assignments.count() < 40

    def test_costs_six_statements_at_most_when_the_coin_says_no(
        self, model: RegisteredModel, labeler: User, waiting: Pair
    ) -> None:
        JudgingPolicy.objects.filter(model=model).update(gold_share=0, repeat_share=0)
        judging.pair_assign(model_id=model.pk, labeler=labeler, now=NOW)
        Assignment.objects.update(closed_at=NOW)
        QueueEntry.objects.update(leased=0)

        with CaptureQueriesContext(connection) as captured:
            judging.pair_assign(model_id=model.pk, labeler=labeler, now=NOW)

        assert len(captured) <= 6

    @pytest.fixture
    def served(
        self, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> Assignment:
        gold(model, admin)
        found = next_check(model, labeler, ALWAYS_GOLD)
        assert found is not None
        return found

    def test_counts_it_like_any_judgement(
        self, model: RegisteredModel, labeler: User, served: Assignment
    ) -> None:
        """A progress that stood still would show it."""
        tally_of(model, labeler, judged=7)

        recorded = judging.judgement_record(assignment=served, verdict="left", now=NOW)

        assert (recorded.is_new, recorded.today, recorded.in_all) == (True, 1, 8)

    def test_takes_it_back_for_nobody_else(
        self, model: RegisteredModel, labeler: User, served: Assignment
    ) -> None:
        judge(served)
        judging.judgement_undo(assignment=served, now=NOW)

        assert judging.pair_assign(model_id=model.pk, labeler=labeler, now=NOW) == served
        served.refresh_from_db()
        assert (served.closed_at, served.is_on_top) == (None, True)
        assert not QueueEntry.objects.filter(pair=served.pair).exists()

    def test_holds_on_to_it_in_a_page_that_was_away(
        self, model: RegisteredModel, labeler: User, served: Assignment
    ) -> None:
        later = NOW + timedelta(hours=2)
        judging.leases_release(model_id=model.pk, now=later)

        held = judging.leases_keep(
            model=model, labeler=labeler, shown=None, waiting=[served.pk], now=later
        )

        assert held == [served.pk]
        served.refresh_from_db()
        assert (served.closed_at, served.is_on_top) == (None, True)
        judge(served)
        judging.leases_keep(
            model=model, labeler=labeler, shown=None, waiting=[served.pk], now=later
        )
        served.refresh_from_db()
        assert served.closed_at is not None

    def test_gives_it_back_to_nobody_when_staff_releases_it(
        self, model: RegisteredModel, labeler: User, served: Assignment
    ) -> None:
        judging.lease_release(assignment=served, now=NOW)

        served.refresh_from_db()
        assert served.closed_at == NOW
        assert not QueueEntry.objects.filter(pair=served.pair).exists()


class TestThePage:
    """What a labeler's browser gets of a gold pair and of a repeat is what it gets of any pair."""

    def page(self, client: Client, lease: Assignment) -> str:
        """Return the judge page of one lease, without what every pair has of its own."""
        Assignment.objects.exclude(pk=lease.pk).filter(closed_at=None).update(closed_at=NOW)
        Assignment.objects.filter(pk=lease.pk).update(
            closed_at=None, expires_at=timezone.now() + timedelta(minutes=30)
        )
        answer = client.get("/models/demo/judge/")
        assert str(lease.pk) in answer.text
        shown = answer.text.replace(str(lease.pk), "UUID")
        for text in (lease.left.text, lease.right.text, lease.pair.prompt.question):
            assert text in shown
            shown = shown.replace(text, "TEXT")
        headers = sorted(name for name in answer.headers if name != "Date")
        return re.sub(r'token"[^>]*?value="\w+"|token": "\w+"|nonce[^;"]*', "", shown) + str(
            headers
        )

    def test_tells_them_apart_by_nothing(
        self, client: Client, model: RegisteredModel, admin: User, labeler: User, waiting: Pair
    ) -> None:
        factories.MembershipFactory.create(model=model, user=labeler)
        client.force_login(labeler)
        gold(model, admin)
        past(model, labeler, 51)
        ordinary = factories.AssignmentFactory.create(pair=waiting, labeler=labeler)
        served = [next_check(model, labeler, one) for one in (ALWAYS_GOLD, ALWAYS_REPEAT)]

        pages = {self.page(client, lease) for lease in [ordinary, *served] if lease}

        assert all(served)
        assert len(pages) == 1
