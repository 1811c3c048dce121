from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext, override_settings
from django.utils import timezone

from annotate import judging, quality
from annotate.models import Assignment, Judgement, Pair, Verdict
from models_registry.models import RegisteredModel
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def model() -> RegisteredModel:
    return factories.RegisteredModelFactory.create(slug="demo")


def user(name: str) -> User:
    return User.objects.filter(username=name).first() or factories.UserFactory.create(username=name)


def pair_of(model: RegisteredModel, **fields: object) -> Pair:
    return factories.PairFactory.create(prompt__model=model, **fields)


def said(
    pair: Pair,
    name: str,
    verdict: str,
    *,
    first_is_left: bool = True,
    at: datetime = NOW,
    **fields: object,
) -> Judgement:
    """Let somebody judge a pair."""
    lease = factories.AssignmentFactory.create(
        pair=pair, labeler=user(name), first_is_left=first_is_left, assigned_at=at, closed_at=at
    )
    return factories.JudgementFactory.create(
        assignment=lease, verdict=verdict, judged_at=at, **fields
    )


def report(model: RegisteredModel, days: int = 30) -> quality.Report:
    return quality.report_of(model, since=NOW - timedelta(days=days), now=NOW)


def repeated(pair: Pair, name: str, before: str, after: str, *, first_is_left: bool = True) -> None:
    """Let somebody judge a pair, and again with its sides swapped."""
    original = said(pair, name, before, first_is_left=first_is_left).assignment
    repeat = factories.RepeatFactory.create(original=original)
    factories.JudgementFactory.create(assignment=repeat.assignment, verdict=after, judged_at=NOW)


class TestOutcomes:
    def test_are_about_completions_and_not_sides(self, model: RegisteredModel) -> None:
        """Two people who saw a pair the other way round and chose the same answer agree."""
        for _ in range(3):
            pair = pair_of(model)
            said(pair, "ann", Verdict.LEFT, first_is_left=True)
            said(pair, "bob", Verdict.RIGHT, first_is_left=False)
        other = pair_of(model)
        said(other, "ann", Verdict.RIGHT)
        said(other, "bob", Verdict.LEFT, first_is_left=False)

        found = report(model)

        assert found.nominal.value == 1
        assert found.raw.value == 1
        assert found.disagreements == []

    @pytest.mark.parametrize(
        ("verdict", "first_is_left", "outcome", "strength"),
        [
            (Verdict.LEFT_MUCH, True, "first", 2),
            (Verdict.LEFT_MUCH, False, "second", -2),
            (Verdict.RIGHT, True, "second", -1),
            (Verdict.RIGHT, False, "first", 1),
            (Verdict.TIE, True, "tie", 0),
            (Verdict.BOTH_BAD, True, "both_bad", None),
            (Verdict.CANNOT_JUDGE, True, "", None),
        ],
    )
    def test_of_each_verdict(
        self,
        model: RegisteredModel,
        verdict: str,
        first_is_left: bool,
        outcome: str,
        strength: int | None,
    ) -> None:
        said(pair_of(model), "ann", verdict, first_is_left=first_is_left)

        (one,) = report(model).said

        assert (one.outcome, one.strength) == (outcome, strength)


class TestReport:
    def test_agreement_is_that_of_the_textbook(self, model: RegisteredModel) -> None:
        # ff ft tt ss sf: o = ff 2, tt 2, ss 2, ft 1, tf 1, sf 1, fs 1; n_f = 4, n_t = 3, n_s = 3, n = 10.
        # D_o = 4/10; D_e = 2(4·3 + 4·3 + 3·3)/90 = 66/90; alpha = 1 - .4·90/66 = 5/11
        for ann, bob in (
            (Verdict.LEFT, Verdict.LEFT),
            (Verdict.LEFT, Verdict.TIE),
            (Verdict.TIE, Verdict.TIE),
            (Verdict.RIGHT, Verdict.RIGHT),
            (Verdict.RIGHT, Verdict.LEFT),
        ):
            pair = pair_of(model)
            said(pair, "ann", ann)
            said(pair, "bob", bob)
        said(pair_of(model), "ann", Verdict.LEFT)

        found = report(model)

        assert found.nominal.value == pytest.approx(5 / 11)
        assert (found.nominal.units, found.nominal.raters, found.nominal.values) == (5, 2, 10)
        assert found.raw.value == pytest.approx(0.6)

    def test_leaves_checks_out_of_agreement(self, model: RegisteredModel) -> None:
        gold = factories.GoldFactory.create(model=model)
        for name in ("ann", "bob"):
            said(gold.pair, name, Verdict.LEFT)
        repeated(pair_of(model), "ann", Verdict.LEFT, Verdict.RIGHT)

        found = report(model)

        assert (found.nominal.value, found.nominal.units) == (None, 0)
        assert len(found.said) == 4

    def test_takes_the_revision_that_stands(self, model: RegisteredModel) -> None:
        first = said(pair_of(model), "ann", Verdict.LEFT)
        factories.JudgementFactory.create(
            assignment=first.assignment, revision=2, verdict=Verdict.TIE, judged_at=NOW
        )
        withdrawn = said(pair_of(model), "ann", Verdict.LEFT)
        judging.judgement_undo(assignment=withdrawn.assignment, now=NOW)

        assert [one.verdict for one in report(model).said] == [Verdict.TIE]

    def test_looks_at_its_model_and_time_only(self, model: RegisteredModel) -> None:
        said(pair_of(model), "ann", Verdict.LEFT)
        said(pair_of(model), "ann", Verdict.LEFT, at=NOW - timedelta(days=8))
        said(factories.PairFactory.create(), "ann", Verdict.LEFT)

        assert len(report(model, days=7).said) == 1
        assert len(report(model, days=9).said) == 2

    def test_is_bounded(self, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quality, "MOST_JUDGEMENTS", 3)
        newest = [said(pair_of(model), "ann", Verdict.LEFT).pk for _ in range(5)][2:]

        found = report(model)

        assert len(found.said) == 3
        assert found.is_cut
        assert {one.pair for one in found.said} == set(
            Judgement.objects.filter(pk__in=newest).values_list("assignment__pair", flat=True)
        )

    def test_asks_as_much_of_many_judgements_as_of_few(self, model: RegisteredModel) -> None:
        counts = []
        for _ in range(2):
            for name in ("ann", "bob", f"new-{len(counts)}"):
                pair = pair_of(model)
                said(pair, name, Verdict.LEFT)
                repeated(pair_of(model), name, Verdict.LEFT, Verdict.RIGHT)
                said(factories.GoldFactory.create(model=model).pair, name, Verdict.LEFT)
            with CaptureQueriesContext(connection) as captured:
                found = report(model)
                assert found.people
            counts.append(len(captured))

        assert counts[0] == counts[1] <= 6

    def test_counts_days_without_gaps(self, model: RegisteredModel) -> None:
        for days in (0, 0, 3):
            said(pair_of(model), "ann", Verdict.LEFT, at=NOW - timedelta(days=days))

        assert [count for _, count in report(model).by_day] == [1, 0, 0, 2]

    @override_settings(TIME_ZONE="Pacific/Auckland")
    def test_counts_days_where_the_server_is(self, model: RegisteredModel) -> None:
        midnight = timezone.localtime(NOW).replace(hour=0, minute=0)
        for at in (midnight - timedelta(minutes=1), midnight):
            said(pair_of(model), "ann", Verdict.LEFT, at=at)

        found = report(model)

        days = [timezone.localdate(NOW) - timedelta(days=1), timezone.localdate(NOW)]
        assert found.by_day == [(days[0], 1), (days[1], 1)]
        assert found.people[0].today == 1

    def test_tells_which_version_wrote_what_was_judged(self, model: RegisteredModel) -> None:
        version = factories.ModelVersionFactory.create(model=model, adapter=True)
        for writer in (version, version, version.parent):
            said(pair_of(model, first__version=writer, second__version=writer), "ann", "left")

        assert report(model).versions == [(1, 2), (0, 1)]


class TestConsistency:
    def test_is_by_the_answer_and_flips_by_the_side(self, model: RegisteredModel) -> None:
        # The sides are swapped the second time: left, then right, is the same answer.
        repeated(pair_of(model), "ann", Verdict.LEFT, Verdict.RIGHT_MUCH)
        repeated(pair_of(model), "ann", Verdict.RIGHT, Verdict.LEFT, first_is_left=False)
        repeated(pair_of(model), "ann", Verdict.LEFT, Verdict.LEFT)
        repeated(pair_of(model), "ann", Verdict.LEFT, Verdict.TIE)

        found = report(model)

        assert found.consistency is not None
        assert found.flips is not None
        assert (found.consistency.value, found.consistency.n) == (0.5, 4)
        assert (found.flips.value, found.flips.n) == (pytest.approx(1 / 3), 3)

    def test_leaves_repeats_out_that_wait(self, model: RegisteredModel) -> None:
        factories.RepeatFactory.create(original=said(pair_of(model), "ann", "left").assignment)

        assert report(model).consistency is None

    def test_of_a_labeler_is_hidden_below_ten(self, model: RegisteredModel) -> None:
        for n in range(10):
            assert quality.consistency_of(user("ann"), model) is None
            repeated(pair_of(model), "ann", "left", "right" if n else "left")
            repeated(pair_of(model), "bob", "left", "left")

        found = quality.consistency_of(user("ann"), model)

        assert found is not None
        value, low, high, n = found
        assert (value, n) == (0.9, 10)
        assert low < 0.9 < high


class TestAgreementOfALabeler:
    def test_is_with_others_on_the_same_pairs(self, model: RegisteredModel) -> None:
        assert quality.agreement_of(user("ann"), model) is None
        for n in range(10):
            pair = pair_of(model)
            said(pair, "ann", "left")
            said(pair, "bob", "left" if n < 8 else "right")
            said(pair_of(model), "ann", "left")
        gold = factories.GoldFactory.create(model=model)
        said(gold.pair, "ann", "left")
        said(gold.pair, "bob", "right")

        found = quality.agreement_of(user("ann"), model)

        assert found is not None
        assert (found[0], found[3]) == (0.8, 10)


class TestLabelers:
    def many(
        self, model: RegisteredModel, name: str, verdicts: list[str], **fields: object
    ) -> None:
        for verdict in verdicts:
            said(pair_of(model), name, verdict, **fields)

    def test_show_no_share_before_thirty_judgements(self, model: RegisteredModel) -> None:
        self.many(model, "few", ["left"] * 29)
        self.many(model, "many", ["left"] * 30)

        few, many = report(model).people

        assert (few.judged, few.has_numbers) == (29, False)
        assert (few.left, few.shares) == (None, [None] * 7)
        assert many.left is not None
        assert (many.left.value, many.left.n) == (1, 30)

    def test_are_sorted_by_name(self, model: RegisteredModel) -> None:
        for name in ("Zoe", "adam", "Bea"):
            self.many(model, name, ["left"])

        assert [one.labeler.username for one in report(model).people] == ["adam", "Bea", "Zoe"]

    def test_name_the_side_that_chance_does_not_explain(self, model: RegisteredModel) -> None:
        self.many(model, "leftist", ["left"] * 25 + ["right"] * 5)
        self.many(model, "even", ["left"] * 17 + ["right"] * 13)
        self.many(model, "rightist", ["left_much"] * 4 + ["right_much"] * 26)

        words = {one.labeler.username: one.side_word for one in report(model).people}

        assert words == {"leftist": "more left", "even": "", "rightist": "more right"}

    def test_count_sides_and_not_completions(self, model: RegisteredModel) -> None:
        self.many(model, "ann", ["left"] * 30, first_is_left=False)

        (ann,) = report(model).people

        assert ann.left is not None
        assert ann.left.value == 1

    def test_have_shares_of_their_own(self, model: RegisteredModel) -> None:
        self.many(model, "ann", ["left"] * 24 + ["tie"] * 6 + ["both_bad"] * 2)
        for n in range(4):
            said(factories.GoldFactory.create(model=model).pair, "ann", "right" if n else "left")

        (ann,) = report(model).people

        assert ann.tie is not None
        assert ann.both_bad is not None
        assert ann.gold is not None
        assert (ann.tie.value, ann.tie.n) == (pytest.approx(6 / 36), 36)
        assert ann.both_bad.value == pytest.approx(2 / 36)
        assert (ann.gold.value, ann.gold.n) == (0.25, 4)
        assert ann.agreement is None

    def test_are_fast_only_on_long_texts_that_were_measured(self, model: RegisteredModel) -> None:
        long = {"first__text": "word " * 200, "second__text": "word " * 200}
        for n in range(30):
            said(pair_of(model, **long), "ann", "left", active_ms=500 if n < 3 else 60_000)
        for active_ms in (500, 0):
            said(pair_of(model), "ann", "left", active_ms=active_ms)
        said(pair_of(model, **long), "ann", "left", active_ms=0)

        (ann,) = report(model).people

        assert ann.fast is not None
        assert (ann.fast.value, ann.fast.n) == (0.1, 30)
        assert ann.median_s == 60

    def test_are_counted_today_from_midnight(self, model: RegisteredModel) -> None:
        self.many(model, "ann", ["left"] * 2)
        self.many(model, "ann", ["left"], at=NOW - timedelta(days=1))

        (ann,) = report(model).people

        assert (ann.judged, ann.today) == (3, 2)


class TestDisagreements:
    def test_come_strongest_first(self, model: RegisteredModel) -> None:
        pairs = {}
        for distance, (one, other) in {
            4: ("left_much", "right_much"),
            2: ("left", "both_bad"),
            1: ("left", "tie"),
            3: ("left_much", "right"),
            0: ("left", "left"),
        }.items():
            pairs[distance] = pair_of(model)
            said(pairs[distance], "ann", one)
            said(pairs[distance], "bob", other)

        found = report(model).disagreements

        assert [(one.pair, one.distance) for one in found] == [
            (pairs[distance].pk, distance) for distance in (4, 3, 2, 1)
        ]

    def test_are_none_where_somebody_could_not_judge(self, model: RegisteredModel) -> None:
        pair = pair_of(model)
        said(pair, "ann", "left")
        said(pair, "bob", "cannot_judge")

        assert report(model).disagreements == []


def test_leases_are_those_that_are_open(model: RegisteredModel) -> None:
    held = factories.AssignmentFactory.create(pair=pair_of(model))
    factories.AssignmentFactory.create(pair=pair_of(model), closed_at=NOW)
    factories.AssignmentFactory.create()

    assert quality.leases_open(model, limit=9) == [held]
    assert Assignment.objects.count() == 3
