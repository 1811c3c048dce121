from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import combinations, islice
from math import isqrt

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotate import flags, judging
from annotate.models import Assignment, Flag, Judgement, Pair, Split, Verdict
from models_registry.models import Alias, ModelVersion, Outcome
from pairloop.pages import history_numbers
from pairloop.pages.history_queries import PAGE, Place, Wanted, active_ms_of, history_page
from tests import factories
from tests.training.test_actions import begin, finish, start
from training.models import Round, SnapshotItem

pytestmark = pytest.mark.django_db


@pytest.fixture
def model(places):
    return factories.RegisteredModelFactory(name="Demo")


@pytest.fixture
def labeler(model):
    return factories.MembershipFactory(model=model).user


@pytest.fixture
def look(client, model, labeler):
    """What the labeler sees, without the navigation."""
    client.force_login(labeler)

    def get(**query) -> str:
        answer = client.get(f"/models/{model.slug}/history/", query)
        assert answer.status_code == 200
        return re.sub(r"\s+", " ", answer.text.partition("<main")[2])

    return get


@pytest.fixture
def places(settings, tmp_path):
    settings.ROUNDS = tmp_path / "rounds"
    settings.VERSIONS = tmp_path / "versions"
    settings.SCORES = tmp_path / "scores"
    settings.BASES = tmp_path / "bases"
    return tmp_path


#: What belongs to the judgement and not to its pair.
SAID = {"note", "reasons", "active_ms", "is_late", "guidelines_version"}


def judged(model, labeler, *, verdict=Verdict.LEFT, at=None, pair=None, **fields) -> Judgement:
    """Have a pair judged, and closed; `fields` are the judgement's or a new pair's."""
    at = at or timezone.now()
    said = {name: fields.pop(name) for name in SAID & set(fields)}
    pair = pair or factories.PairFactory(prompt__model=model, **fields)
    lease = factories.AssignmentFactory(labeler=labeler, pair=pair, assigned_at=at, closed_at=at)
    return factories.JudgementFactory(assignment=lease, verdict=verdict, judged_at=at, **said)


def used(judgement, *, number=7, state=Round.State.SUCCEEDED, version=None, **fields) -> Round:
    """Put a judgement into the snapshot of a round."""
    pair = judgement.assignment.pair
    done = state in {Round.State.EVALUATING, Round.State.SUCCEEDED}
    if done and version is None:
        model = pair.prompt.model
        version = factories.ModelVersionFactory(
            model=model, number=number + 1, kind="adapter", parent=model.versions.get(number=0)
        )
    item = factories.SnapshotItemFactory(pair=pair, judgement_ids=[judgement.pk], is_consumed=done)
    round_: Round = factories.RoundFactory(
        model=pair.prompt.model,
        number=number,
        state=state,
        snapshot=item.snapshot,
        version=version,
        **({"failure": "It broke."} if state == Round.State.FAILED else {}),
        **fields,
    )
    return round_


def page_of(model, labeler, before=None, **wanted):
    return history_page(model=model, labeler=labeler, wanted=Wanted(**wanted), before=before)


def fate_of(model, labeler):
    return page_of(model, labeler).rows[0].fate


class TestRows:
    def test_say_what_was_said(self, look, model, labeler):
        judged(
            model, labeler, verdict=Verdict.RIGHT_MUCH, note="The left one\nis <wrong>.",
            reasons=["correct"], active_ms=102_000, is_late=True, guidelines_version=4,
            prompt__messages=[{"role": "user", "content": "Why is the <sky> blue?"}],
        )  # fmt: skip

        shown = look()

        assert "Why is the &lt;sky&gt; blue?" in shown
        assert "Right is much better" in shown
        assert "The left one<br>is &lt;wrong&gt;." in shown
        assert "correct" in shown
        assert "1 min 42 s active" in shown
        assert "late, and counted" in shown
        assert "guidelines 4" in shown

    def test_begin_with_the_newest_and_with_the_last_message(self, look, model, labeler):
        now = timezone.now()
        for hours, text in ((3, "Oldest?"), (1, "Newest?"), (2, "Middle?")):
            turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
            judged(model, labeler, at=now - timedelta(hours=hours), prompt__messages=turns)

        shown = look()

        assert shown.index("Newest?") < shown.index("Middle?") < shown.index("Oldest?")
        assert "Be brief." not in shown

    def test_show_the_beginning_of_a_long_prompt(self, model, labeler):
        long = "word " * 5000
        judged(model, labeler, prompt__messages=[{"role": "user", "content": long}])

        assert page_of(model, labeler).rows[0].beginning == long[:200].rstrip() + "…"

    def test_count_changes_but_not_taking_back(self, model, labeler):
        lease = judged(model, labeler, active_ms=5000).assignment
        factories.JudgementFactory(assignment=lease, revision=2, verdict="")
        factories.JudgementFactory(
            assignment=lease, revision=3, verdict="tie", active_ms=7000, is_late=True
        )

        row = page_of(model, labeler).rows[0]

        assert (row.judgement.verdict, row.changes, row.is_late) == ("tie", 1, False)
        assert row.active_ms == 7000

    def test_leave_out_what_was_taken_back(self, model, labeler):
        lease = judged(model, labeler).assignment
        judging.judgement_undo(assignment=lease, now=timezone.now())

        assert page_of(model, labeler).rows == []

    def test_are_nobody_elses(self, look, model, labeler):
        other = factories.MembershipFactory(model=model).user
        theirs = judged(model, other, note="Theirs.")
        judged(model, labeler, pair=theirs.assignment.pair, note="Mine.")
        factories.MembershipFactory(user=labeler, model=factories.RegisteredModelFactory())
        judged(labeler.memberships.last().model, labeler, note="Of another model.")

        shown = look()

        assert "Mine." in shown
        assert "Theirs." not in shown
        assert "Of another model." not in shown

    def test_are_staffs_own_too(self, client, model, labeler):
        admin = factories.UserFactory(is_staff=True)
        client.force_login(admin)
        judged(model, labeler, note="The labeler's.")
        mine = judged(model, admin, note="The admin's.")

        shown = client.get(f"/models/{model.slug}/history/").text

        assert "The admin" in shown
        assert "The labeler" not in shown
        assert f"/models/{model.slug}/pairs/{mine.assignment.pair_id}/" in shown

    def test_say_why_there_are_none(self, look, model, labeler):
        assert "None yet." in look()
        assert "None of yours is like that." in look(verdict="tie")
        assert "none before this" in look(before=f"1-{'0' * 32}")


class TestFilters:
    def test_let_through_what_they_say(self, model, labeler):
        now = timezone.now()
        tie = judged(model, labeler, verdict=Verdict.TIE)
        noted = judged(model, labeler, note="Look.")
        old = judged(model, labeler, at=now - timedelta(days=6))
        oldest = judged(model, labeler, at=now - timedelta(days=8))

        def found(**wanted):
            return {row.judgement.pk for row in page_of(model, labeler, **wanted).rows}

        assert found() == {tie.pk, noted.pk, old.pk, oldest.pk}
        assert found(verdict="tie") == {tie.pk}
        assert found(has_note=True) == {noted.pk}
        assert found(span="today") == {tie.pk, noted.pk}
        assert found(span="week") == {tie.pk, noted.pk, old.pk}
        assert found(verdict="left", span="today") == {noted.pk}

    def test_know_flags_that_stand(self, model, labeler, look):
        flagged = judged(model, labeler).assignment
        taken_back = judged(model, labeler).assignment
        for lease, is_raised in ((flagged, True), (taken_back, True), (taken_back, False)):
            flags.flag_set(assignment=lease, is_raised=is_raised, note="Odd?", now=timezone.now())
        Flag.objects.filter(assignment=flagged).update(
            resolved_at=timezone.now(), resolved_by=factories.UserFactory(), resolution="It is."
        )

        rows = page_of(model, labeler, is_flagged=True).rows

        assert [row.judgement.assignment for row in rows] == [flagged]
        shown = look(flagged="1")
        assert "Odd?" in shown
        assert "Answer: It is." in shown
        assert look().count(">flagged<") == 1

    def test_go_by_what_stands(self, model, labeler):
        lease = judged(model, labeler, verdict=Verdict.TIE).assignment
        factories.JudgementFactory(assignment=lease, revision=2, verdict="both_bad")

        assert page_of(model, labeler, verdict="tie").rows == []
        assert len(page_of(model, labeler, verdict="both_bad").rows) == 1

    def test_are_links_that_keep_the_others(self, look, model, labeler):
        shown = look(verdict="tie", note="1")

        assert (
            'href="/models/' + model.slug + '/history/?verdict=tie&amp;note=1&amp;span=week"'
            in shown
        )
        assert '?verdict=tie" aria-current="true">A note' in shown

    @pytest.mark.parametrize(
        "query", [{"verdict": "x"}, {"span": "x"}, {"note": "x"}, {"before": "x"}, {"before": "9" * 17 + "-" + "z" * 32}, {"before": "99999999999999999-" + "0" * 32}],
    )  # fmt: skip
    def test_that_nobody_knows_are_none(self, look, model, labeler, query):
        judged(model, labeler, note="Mine.")

        assert "Mine." in look(**query)


class TestPaging:
    def test_shows_each_judgement_once(self, model, labeler):
        # Many at the same moment, as an import of votes would leave them.
        at = timezone.now()
        made = {judged(model, labeler, at=at).pk for _ in range(PAGE + 3)}
        made |= {judged(model, labeler, at=at - timedelta(minutes=m)).pk for m in range(PAGE)}

        seen, before = [], None
        for _ in range(3):
            found = page_of(model, labeler, before=before)
            seen += [row.judgement.pk for row in found.rows]
            before = found.older
        assert (len(seen), set(seen), before) == (len(made), made, None)

    def test_goes_on_by_links(self, client, look, model, labeler):
        now = timezone.now()
        for number in range(PAGE + 1):
            judged(model, labeler, at=now - timedelta(minutes=number), note=f"Note {number:03}.")

        first = look(note="1")
        link = re.search(r'href="([^"]+before=[^"]+)"', first)[1].replace("&amp;", "&")
        second = client.get(link).text

        assert f"Note {PAGE:03}." not in first
        assert "note=1" in link
        assert f"Note {PAGE:03}." in second
        assert "Note 000." not in second
        assert "My numbers" not in second

    def test_reads_the_place_that_it_wrote(self):
        place = Place(datetime(2026, 11, 28, 14, 2, 3, 123457, tzinfo=UTC), factories.uuid.uuid4())

        assert Place.read(str(place)) == place


class TestFate:
    def test_is_to_wait(self, model, labeler):
        judged(model, labeler)

        assert fate_of(model, labeler).said == "Waits for a round"

    @pytest.mark.parametrize("purpose", list(Pair.Purpose))
    @pytest.mark.parametrize(
        ("verdict", "words"), [("both_bad", "both are bad"), ("cannot_judge", "you could not")]
    )
    def test_is_no_triple_whatever_the_pair_was_for(self, model, labeler, purpose, verdict, words):
        judged(model, labeler, verdict=verdict, **pair_for(purpose, model))

        fate = fate_of(model, labeler)

        assert fate.kind == "no_triple"
        assert words in fate.said

    def test_is_in_the_snapshot_of_a_round_that_runs(self, look, model, labeler):
        used(judged(model, labeler), state=Round.State.RUNNING)

        shown = look()

        assert "In the snapshot of round 7 (running)" in shown
        assert "A change counts for later rounds" in shown

    def test_is_a_version_and_how_it_did(self, look, model, labeler):
        round_ = used(
            judged(model, labeler),
            holdout={"pairs": 120, "after": {"accuracy": 0.68, "accuracy_low": 0.59, "accuracy_high": 0.76}},
        )  # fmt: skip
        compared(round_.version, wins=61, losses=39)
        Alias.objects.filter(model=model, name="champion").update(version=round_.version)

        shown = look()

        assert "Used in round 7 → v8" in shown
        assert "champion</span>" in shown
        assert "v8 wins 61% [51, 70] of 100 votes against v0" in shown
        assert "v8 prefers the good answer in 68% [59, 76] of 120 held-out pairs" in shown
        assert "A change counts for later rounds" in shown

    def test_is_a_version_that_is_being_measured(self, look, model, labeler):
        used(judged(model, labeler), state=Round.State.EVALUATING)

        assert "v8 is being measured" in look()

    def test_tells_of_trouble_but_not_of_which(self, look, model, labeler):
        round_ = used(judged(model, labeler))
        ModelVersion.objects.filter(pk=round_.version_id).update(
            metrics={"guardrails": {"failed": ["length"]}}
        )

        shown = look()

        assert "It left the guardrails" in shown
        assert "ength" not in shown

    @pytest.mark.parametrize(
        ("state", "words"), [("retired", "It is retired"), ("corrupt", "Its files are damaged")]
    )
    def test_tells_of_a_version_that_is_gone(self, look, model, labeler, state, words):
        round_ = used(judged(model, labeler))
        ModelVersion.objects.filter(pk=round_.version_id).update(state=state)

        assert words in look()

    def test_is_to_wait_again_after_a_round_that_came_to_nothing(self, look, model, labeler):
        said = judged(model, labeler)
        used(said, state=Round.State.FAILED)

        assert "Round 7 failed; it waits for the next one" in look()

        used(said, number=8, state=Round.State.RUNNING)

        assert "In the snapshot of round 8 (running)" in look()

    def test_names_the_rounds_that_repeat_it(self, look, model, labeler):
        said = judged(model, labeler)
        used(said)
        for number in (8, 9):
            round_ = used(judged(model, factories.UserFactory()), number=number)
            factories.SnapshotItemFactory(
                pair=said.assignment.pair, snapshot=round_.snapshot, role="replay", judgement_ids=[said.pk]
            )  # fmt: skip

        shown = look()

        assert "Used in round 7 → v8" in shown
        assert "Repeated in rounds 8, 9" in shown

    def test_is_ones_own_and_not_that_of_whoever_judged_the_pair_too(self, model, labeler):
        theirs = judged(model, factories.UserFactory())
        used(theirs)
        judged(model, labeler, pair=theirs.assignment.pair)

        assert fate_of(model, labeler).said == "Waits for a round"

    def test_says_what_was_said_when_it_was_frozen(self, look, model, labeler):
        lease = used_and_changed(model, labeler, verdict="right")

        assert (
            "There you had said “Left is slightly better”; your change counts for later" in look()
        )

        factories.JudgementFactory(assignment=lease, revision=3, verdict="both_bad")

        shown = look()
        assert "after your change, later rounds go without it" in shown
        assert "Used in round 7 → v8" in shown


def used_and_changed(model, labeler, *, verdict):
    said = judged(model, labeler)
    used(said)
    factories.JudgementFactory(assignment=said.assignment, revision=2, verdict=verdict)
    return said.assignment


def pair_for(purpose, model):
    """Return what a pair of this purpose needs."""
    fields = {"purpose": purpose}
    if purpose in {"eval", "compare"}:
        fields["prompt__split"] = Split.HOLDOUT
    if purpose == "compare":
        fields["comparison"] = factories.ComparisonFactory(
            model=model, candidate__number=100 + Pair.objects.count()
        )
    return fields


def compared(version, *, wins, losses, state="decided"):
    """Have a version compared with the base; the comparison has ended."""
    now = timezone.now()
    comparison = factories.ComparisonFactory(
        model=version.model,
        candidate=version,
        state=state,
        ended_at=now if state != "open" else None,
    )
    for number in range(wins + losses):
        factories.OutcomeFactory(
            comparison=comparison,
            winner=version if number < wins else comparison.incumbent,
            prompt_key=factories.sha256(str(number)),
            recorded_at=now - timedelta(minutes=1),
        )
    return comparison


class TestBlindness:
    #: What measures and what checks, whichever way.
    OTHERS = ("eval", "compare", "gold", "repeat")

    @pytest.mark.parametrize("purpose", OTHERS)
    def test_looks_the_same_as_a_triple_until_a_round_takes_those(self, model, labeler, purpose):
        now = timezone.now()
        judged(model, labeler, at=now, **pair_for(purpose, model))

        other = fate_of(model, labeler)

        judged(model, labeler, at=now + timedelta(seconds=1))
        assert fate_of(model, labeler) == other

    def test_says_the_same_of_all_that_no_round_takes(self, model, labeler):
        for purpose in self.OTHERS:
            judged(model, labeler, **pair_for(purpose, model))
        used(judged(model, labeler))

        fates = [row.fate for row in page_of(model, labeler).rows]

        assert [fate.kind for fate in fates] == ["used", *["measures"] * 4]
        assert len(set(fates[1:])) == 1

    def test_keeps_that_when_one_of_them_is_changed_later(self, model, labeler):
        lease = judged(model, labeler, **pair_for("gold", model)).assignment
        used(judged(model, factories.UserFactory()))
        factories.JudgementFactory(assignment=lease, revision=2, verdict="tie")

        assert fate_of(model, labeler).kind == "measures"

    def test_never_says_which_version_wrote_what(self, client, look, model, labeler):
        old, new = (factories.CompletionFactory.build().text for _ in range(2))
        candidate = factories.ModelVersionFactory(model=model, adapter=True, number=41)
        said = judged(model, labeler, prompt__split=Split.HOLDOUT, first__text=old, second__text=new, second__version=candidate, purpose="compare", comparison=factories.ComparisonFactory(model=model, candidate=candidate))  # fmt: skip
        used(judged(model, labeler), number=42)

        answers = client.get(f"/models/{model.slug}/history/{said.assignment_id}/").text
        api = client.get(f"/api/v1/models/{model.slug}/history/").content.decode()

        assert old in answers
        for shown in (look(), answers, api):
            assert "v41" not in shown
            assert candidate.served_name not in shown
            assert candidate.sha256 not in shown
            assert "ompar" not in shown
        assert "gold" not in api + answers

    def test_shows_no_figure_that_ones_next_judgement_moves(self, look, model, labeler):
        round_ = used(judged(model, labeler))
        comparison = compared(round_.version, wins=15, losses=5, state="open")

        assert "votes against" not in look()

        comparison.state, comparison.ended_at = "closed", timezone.now()
        comparison.save()
        before = look()
        assert "v8 wins 75%" in before

        # Said, and taken back, after the end.
        factories.OutcomeFactory(comparison=comparison, winner=comparison.incumbent)
        Outcome.objects.filter(winner=round_.version).update(withdrawn_at=timezone.now())

        assert look() == before

    def test_shows_no_win_rate_of_a_handful(self, look, model, labeler):
        compared(used(judged(model, labeler)).version, wins=5, losses=4)

        assert "votes against" not in look()
        assert "v8 is not measured yet" in look()


class TestFrozen:
    def test_a_change_counts_for_later_rounds_only(self, model, labeler, places, look):
        first = judged(model, labeler, at=timezone.now() - timedelta(minutes=40))
        round_ = start(model)
        finish(begin(round_), places)
        folder = places / "rounds" / round_.snapshot.path
        frozen = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
        item = round_.snapshot.items.get()
        kept = SnapshotItem.objects.filter(pk=item.pk).values().get()

        second = change(first, verdict=Verdict.RIGHT_MUCH)

        assert "There you had said “Left is slightly better”" in look()
        assert {path.name: path.read_bytes() for path in folder.glob("*.jsonl")} == frozen
        assert SnapshotItem.objects.filter(pk=item.pk).values().get() == kept
        assert kept["judgement_ids"] == [first.pk]
        assert Judgement.objects.get(pk=first.pk).verdict == "left"
        # A pair is new only once: the next round repeats it, as it stands now.
        Round.objects.filter(pk=round_.pk).update(state=Round.State.SUCCEEDED)
        ModelVersion.objects.filter(model=model).update(state="verified")
        judged(model, labeler)
        later = start(model).snapshot.items.get(pair=item.pair)
        assert (later.role, later.judgement_ids) == ("replay", [second.pk])
        assert (item.chosen, later.chosen) == (first.winner, second.winner)
        assert (item.target, later.target) == (0.85, 0.98)

    def test_a_change_to_no_triple_keeps_it_out_of_later_rounds(self, model, labeler, places):
        first = judged(model, labeler, at=timezone.now() - timedelta(minutes=40))
        round_ = start(model)
        finish(begin(round_), places)
        change(first, verdict=Verdict.BOTH_BAD)
        Round.objects.filter(pk=round_.pk).update(state=Round.State.SUCCEEDED)
        ModelVersion.objects.filter(model=model).update(state="verified")
        judged(model, labeler)

        items = start(model).snapshot.items

        assert not items.filter(pair=first.assignment.pair).exists()
        assert round_.snapshot.items.filter(pair=first.assignment.pair).exists()


def change(judgement, *, verdict) -> Judgement:
    """Say something else about a pair that was judged, as the page's link leads to."""
    recorded = judging.judgement_record(
        assignment=judgement.assignment, verdict=verdict, now=timezone.now(), revise=True
    )
    assert recorded.is_new
    return recorded.judgement


class TestAnswers:
    def test_are_on_the_sides_where_they_were(self, client, model, labeler):
        client.force_login(labeler)
        said = judged(model, labeler, first__text="First!", second__text="Second!")
        type(said.assignment).objects.update(first_is_left=False)

        shown = client.get(f"/models/{model.slug}/history/{said.assignment_id}/").text

        assert shown.index("Left</h3>") < shown.index("Second!") < shown.index("Right</h3>")
        assert shown.index("Right</h3>") < shown.index("First!")

    def test_look_as_they_did_when_they_were_judged(self, client, model, labeler):
        client.force_login(labeler)
        messages = [
            {"role": "system", "content": "Be *brief*."},
            {"role": "user", "content": "Which?\n\n- this\n- that"},
        ]
        texts = {"first__text": "**This.**", "second__text": "1. That"}
        said = judged(model, labeler, prompt__messages=messages, **texts)
        address = f"/models/{model.slug}/{{}}/{said.assignment_id}/"

        shown, card = (client.get(address.format(page)).text for page in ("history", "judge"))

        texts = re.findall(r'<div class="prose">.*?</div>', card, re.DOTALL)
        assert len(texts) == 4
        assert all(text in shown for text in texts)
        folded, asked = shown.split('class="prompt-text"')
        assert texts[0] in folded.split("What came before (1)")[1]
        assert texts[1] in asked

    def test_ask_no_more_for_many_turns(self, client, model, labeler):
        client.force_login(labeler)
        turn = {"role": "user", "content": "Go on."}
        few = judged(model, labeler, prompt__messages=[turn])
        many = judged(model, labeler, prompt__messages=[turn] * 9)
        address = f"/models/{model.slug}/history/{{}}/"

        asked = [_queries(client, address.format(one.assignment_id)) for one in (few, many)]

        assert asked[0] == asked[1]

    def test_come_alone_when_htmx_asks(self, client, model, labeler):
        client.force_login(labeler)
        said = judged(model, labeler, first__text="<script>alert(1)</script>")

        part = client.get(
            f"/models/{model.slug}/history/{said.assignment_id}/", headers={"HX-Request": "true"}
        ).text

        assert "<html" not in part
        assert "<script>" not in part

    def test_are_ones_own(self, client, model, labeler):
        client.force_login(labeler)
        theirs = judged(model, factories.MembershipFactory(model=model).user)
        elsewhere = factories.MembershipFactory(user=labeler).model
        mine = judged(elsewhere, labeler)

        for uuid in (theirs.assignment_id, mine.assignment_id):
            assert client.get(f"/models/{model.slug}/history/{uuid}/").status_code == 404

    def test_of_what_is_not_judged_are_on_its_card(self, client, model, labeler):
        client.force_login(labeler)
        lease = factories.AssignmentFactory(pair__prompt__model=model, labeler=labeler)

        answer = client.get(f"/models/{model.slug}/history/{lease.uuid}/")

        assert (answer.status_code, answer.url) == (
            302,
            f"/models/{model.slug}/judge/{lease.uuid}/",
        )


class TestNumbers:
    def numbers(self, model, labeler):
        return history_numbers.numbers_of(model=model, labeler=labeler)

    def test_count_work_by_day(self, model, labeler):
        noon = timezone.localtime().replace(hour=12, minute=0, second=0, microsecond=0)
        for days, ms in ((0, 60_000), (0, 30_000), (1, 20_000), (13, 10_000), (14, 5_000)):
            judged(model, labeler, at=noon - timedelta(days=days), active_ms=ms)
        judged(model, factories.UserFactory(), active_ms=99_000)
        judged(factories.RegisteredModelFactory(), labeler, active_ms=99_000)

        numbers = self.numbers(model, labeler)

        assert len(numbers.days) == 14
        worked = [(day.judged, day.active_ms) for day in numbers.days]
        assert worked == [(2, 90_000), (1, 20_000), *[(0, 0)] * 11, (1, 10_000)]
        assert (numbers.judged, numbers.active_ms) == (4, 120_000)
        assert numbers.median_ms == 25_000

    def test_count_what_stands_of_today_and_in_all(self, model, labeler):
        for _ in range(3):
            lease = factories.AssignmentFactory(pair__prompt__model=model, labeler=labeler)
            judging.judgement_record(assignment=lease, verdict="tie", now=timezone.now())
        judging.judgement_undo(assignment=lease, now=timezone.now())

        numbers = self.numbers(model, labeler)

        assert (numbers.today, numbers.in_all) == (2, 2)

    def test_count_days_where_the_server_is(self, model, labeler, settings):
        settings.TIME_ZONE = "Pacific/Auckland"
        with timezone.override("Pacific/Auckland"):
            evening = timezone.localtime().replace(hour=1, minute=0, second=0)
            judged(model, labeler, at=evening, active_ms=1000)

            days = self.numbers(model, labeler).days

        assert (days[0].day, days[0].judged) == (evening.date(), 1)

    def test_count_reading_again_but_no_reason_added_later(self, model, labeler):
        lease = judged(model, labeler, active_ms=40_000).assignment
        for revision, ms in ((2, 40_000), (3, 15_000), (4, 15_000)):
            factories.JudgementFactory(assignment=lease, revision=revision, active_ms=ms)

        numbers = self.numbers(model, labeler)

        assert (numbers.judged, numbers.active_ms) == (1, 55_000)
        assert active_ms_of(list(lease.judgements.order_by("revision"))) == 55_000

    def test_count_a_pair_that_came_back_from_where_its_clock_stood(self, model, labeler):
        lease = judged(model, labeler, active_ms=40_000).assignment
        factories.JudgementFactory(assignment=lease, revision=2, verdict="")
        factories.JudgementFactory(assignment=lease, revision=3, active_ms=55_000)

        assert self.numbers(model, labeler).active_ms == 55_000

    def test_count_a_change_of_what_was_judged_long_ago(self, model, labeler):
        month_ago = timezone.now() - timedelta(days=30)
        lease = judged(model, labeler, at=month_ago, active_ms=40_000).assignment
        factories.JudgementFactory(assignment=lease, revision=2, active_ms=15_000)

        numbers = self.numbers(model, labeler)

        assert (numbers.days[0].judged, numbers.days[0].active_ms) == (1, 15_000)

    def test_count_what_was_read_and_taken_back(self, model, labeler):
        lease = judged(model, labeler, active_ms=40_000).assignment
        judging.judgement_undo(assignment=lease, now=timezone.now())

        numbers = self.numbers(model, labeler)

        assert (numbers.in_all, numbers.active_ms) == (0, 40_000)

    def test_tell_agreement_from_ten_closed_pairs_on(self, model, labeler):
        other = factories.UserFactory()
        pairs = [judged(model, labeler).assignment.pair for _ in range(10)]
        for number, pair in enumerate(pairs[:9]):
            judged(model, other, pair=pair, verdict="left_much" if number < 6 else "right")
        assert self.numbers(model, labeler).agreement is None
        judged(model, other, pair=pairs[9], verdict="left")

        agreement = self.numbers(model, labeler).agreement

        # Strength aside, seven of ten; Wilson's interval.
        assert (agreement.cases, agreement.words) == (10, "70% [40, 89]")

    def test_wait_with_agreement_until_the_pair_is_closed(self, model, labeler):
        for _ in range(10):
            pair = judged(model, labeler).assignment.pair
            judged(model, factories.UserFactory(), pair=pair)
        factories.QueueEntryFactory(pair=pair)

        assert self.numbers(model, labeler).agreement is None

    def test_take_the_mean_over_a_pairs_others(self, model, labeler):
        for _ in range(10):
            pair = judged(model, labeler).assignment.pair
            judged(model, factories.UserFactory(), pair=pair)
            judged(model, factories.UserFactory(), pair=pair, verdict="tie")
            judged(model, factories.UserFactory(), pair=pair, verdict="cannot_judge")

        agreement = self.numbers(model, labeler).agreement

        assert (agreement.value, agreement.cases) == (0.5, 10)

    def test_leave_quality_checks_out_of_agreement(self, model, labeler):
        for _ in range(10):
            pair = judged(model, labeler, purpose="gold").assignment.pair
            judged(model, factories.UserFactory(), pair=pair)

        assert self.numbers(model, labeler).agreement is None

    def test_tell_consistency_from_ten_repeats_on(self, model, labeler):
        for number in range(10):
            assert self.numbers(model, labeler).consistency is None
            again = factories.RepeatFactory(original=judged(model, labeler).assignment).assignment
            # The sides are swapped: what was left is right.
            verdict = "right" if number < 8 else "left"
            factories.JudgementFactory(assignment=again, verdict=verdict)

        consistency = self.numbers(model, labeler).consistency

        assert (consistency.words, consistency.cases) == ("80% [49, 94]", 10)

    def test_are_shown(self, look, model, labeler):
        judged(model, labeler, active_ms=3_700_000)

        shown = look()

        assert "1 h 1 min" in shown
        assert "Active minutes of each day since" in shown
        assert '<rect class="chart-bar"' in shown
        assert "agree with others" not in shown


class TestCost:
    def test_is_the_same_for_one_and_for_many(self, client, model, labeler):
        client.force_login(labeler)
        addresses = [f"/models/{model.slug}/history/", f"/api/v1/models/{model.slug}/history/"]
        compared(used(judged(model, labeler), number=1).version, wins=6, losses=4)
        one = [_queries(client, address) for address in addresses]
        for _ in range(PAGE):
            judged(model, labeler, note="Mine.")
        for number in range(2, 9):
            round_ = used(judged(model, labeler), number=number)
            compared(round_.version, wins=6, losses=4)

        many = [_queries(client, address) for address in addresses]

        assert many == one
        assert max(many) <= 19

    @pytest.mark.slow
    def test_does_not_grow_with_what_somebody_judged(self, model, labeler):
        """Rows that PostgreSQL looks at, for 300 judgements and for 10,300."""
        few = self._rows_looked_at(model, labeler, add=300)
        many = self._rows_looked_at(model, labeler, add=10_000)

        assert max(many.values()) <= 1.5 * max(few.values())
        assert max(many.values()) < 1000

    def _rows_looked_at(self, model, labeler, *, add: int) -> dict[str, int]:
        _judge_many(model, labeler, add)
        places = self._middle(model, labeler)
        return {
            "first": _rows_read(lambda: page_of(model, labeler)),
            "deep": _rows_read(lambda: page_of(model, labeler, before=places)),
        }

    def _middle(self, model, labeler) -> Place:
        own = Assignment.objects.filter(labeler=labeler).order_by("-closed_at", "-uuid")
        middle = own[own.count() // 2]
        return Place(middle.closed_at, middle.uuid)


def _queries(client, address) -> int:
    """Count the queries behind an address."""
    with CaptureQueriesContext(connection) as found:
        assert client.get(address).status_code == 200
    return len(found)


def _judge_many(model, labeler, count: int) -> None:
    """Add judged pairs, four minutes apart."""
    completions = factories.CompletionFactory.create_batch(
        isqrt(2 * count) + 2, prompt=factories.PromptFactory(model=model)
    )
    both = islice(combinations(sorted(completion.pk for completion in completions), 2), count)
    pairs = Pair.objects.bulk_create(
        Pair(
            prompt=completions[0].prompt, prompt_split="train", purpose="train", first_id=first, second_id=second
        )
        for first, second in both
    )  # fmt: skip
    now = timezone.now()
    leases = Assignment.objects.bulk_create(
        Assignment(
            pair=pair, labeler=labeler, first_is_left=True,
            assigned_at=now, expires_at=now, closed_at=now - timedelta(minutes=4 * number),
        )
        for number, pair in enumerate(pairs)
    )  # fmt: skip
    Judgement.objects.bulk_create(
        Judgement(
            assignment=lease, verdict="tie", active_ms=1000, guidelines_version=1, judged_at=lease.closed_at
        )
        for lease in leases
    )  # fmt: skip
    with connection.cursor() as cursor:
        for table in ("prompt", "completion", "pair", "assignment", "judgement"):
            cursor.execute(f"ANALYZE annotate_{table}")


def _rows_read(do) -> int:
    """Sum the rows that every node of every plan looked at."""
    total = 0

    def explained(execute, sql, params, many, context):
        nonlocal total
        if sql.lstrip().startswith(("SELECT", "WITH")):
            context["cursor"].execute(f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {sql}", params)
            total += _looked_at(context["cursor"].fetchone()[0][0]["Plan"])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explained):
        do()
    return total


def _looked_at(plan) -> int:
    own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return round(own) + sum(_looked_at(child) for child in plan.get("Plans", ()))


class TestRest:
    def test_tells_the_same(self, client, model, labeler):
        client.force_login(labeler)
        said = judged(model, labeler, note="Mine.", reasons=["tone"], active_ms=4000)
        used(said)
        judged(model, factories.UserFactory(), note="Theirs.")

        answer = client.get(f"/api/v1/models/{model.slug}/history/").json()

        assert answer["count"] == 1
        found = answer["results"][0]
        assert found["assignment"] == str(said.assignment_id)
        assert (found["verdict"], found["note"], found["reasons"]) == ("left", "Mine.", ["tone"])
        assert (found["active_ms"], found["changes"], found["late"]) == (4000, 0, False)
        assert found["became"] == {
            "state": "used",
            "detail": "Used in round 7",
            "change": "A change counts for later rounds",
            "round": 7,
            "result": {
                "version": 8, "champion": False, "figures": ["is not measured yet"], "trouble": "",
            },
            "repeated_in": [],
        }  # fmt: skip

    def test_says_nothing_where_nothing_came_of_it(self, client, model, labeler):
        client.force_login(labeler)
        judged(model, labeler)

        became = client.get(f"/api/v1/models/{model.slug}/history/").json()["results"][0]["became"]

        assert (became["state"], became["round"], became["result"]) == ("waits", None, None)

    def test_filters_and_pages(self, client, model, labeler):
        client.force_login(labeler)
        now = timezone.now()
        for number in range(3):
            judged(model, labeler, at=now - timedelta(hours=number), note="x" * number)
        path = f"/api/v1/models/{model.slug}/history/"

        assert client.get(path, {"note": "true"}).json()["count"] == 2
        assert client.get(path, {"note": "false"}).json()["count"] == 1
        assert client.get(path, {"verdict": "tie"}).json()["count"] == 0
        flags.flag_set(assignment=Assignment.objects.first(), is_raised=True, now=now)
        assert client.get(path, {"flagged": "true"}).json()["count"] == 1
        assert client.get(path, {"flagged": "false"}).json()["count"] == 2
        after = (now - timedelta(minutes=90)).isoformat()
        assert client.get(path, {"judged_after": after}).json()["count"] == 2
        first = client.get(path, {"page_size": 2}).json()
        second = client.get(first["next"]).json()
        assert [len(page["results"]) for page in (first, second)] == [2, 1]
        assert client.get(path, {"labeler": "x"}).json()["code"] == "unknown_filter"

    def test_is_not_found_for_strangers(self, client, model):
        client.force_login(factories.MembershipFactory().user)

        assert client.get(f"/api/v1/models/{model.slug}/history/").status_code == 404
        assert client.get(f"/models/{model.slug}/history/").status_code == 404


class TestNavigation:
    def test_leads_labelers_to_their_own_pages_only(self, client, model, labeler):
        client.force_login(labeler)

        top = client.get(f"/models/{model.slug}/history/").text.partition("<main")[0]

        for name in ("judge", "history", "guidelines"):
            assert f'href="/models/{model.slug}/{name}/"' in top
        assert "rounds" not in top
