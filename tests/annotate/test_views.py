from __future__ import annotations

import itertools
import json
import re
import time
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from annotate import judging
from annotate.models import Assignment, Judgement, JudgingPolicy, QueueEntry, Verdict
from models_registry.models import RegisteredModel
from tests.factories import (
    AssignmentFactory,
    CompletionFactory,
    MembershipFactory,
    ModelVersionFactory,
    PairFactory,
    PromptFactory,
    QueueEntryFactory,
    RegisteredModelFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}


@pytest.fixture
def model():
    return RegisteredModelFactory()


@pytest.fixture
def labeler(model):
    return MembershipFactory(model=model).user


@pytest.fixture
def visitor(client, labeler):
    client.force_login(labeler)
    return client


@pytest.fixture
def start(settings, tmp_path, model):
    """Write what the supervisor says about the model's engine."""
    settings.MODELS = [model.slug]
    settings.STATUS_FILE = tmp_path / "status.json"
    settings.ENGINE_IS_OURS = True

    def write(**components):
        settings.STATUS_FILE.write_text(json.dumps({"components": components}))

    return write


NUMBERS = itertools.count(1)


def queued(model, *texts, question="", **prompt):
    """Queue a pair of two texts."""
    question = question or f"What is one plus {next(NUMBERS)}?"
    prompt = PromptFactory(model=model, messages=[{"role": "user", "content": question}], **prompt)
    first, second = (CompletionFactory(prompt=prompt, text=text) for text in texts or ("a", "b"))
    return QueueEntryFactory(pair=PairFactory(prompt=prompt, first=first, second=second)).pair


def leased(model, labeler, *texts, now=None):
    """Queue a pair and lease it to somebody."""
    queued(model, *texts)
    return judging.pair_assign(model_id=model.pk, labeler=labeler, now=now or timezone.now())


def leased_ahead(model, labeler):
    """Queue a pair and lease it beside what they hold."""
    queued(model)
    held = Assignment.objects.filter(labeler=labeler, closed_at=None).values_list("uuid", flat=True)
    return judging.pair_assign(
        model_id=model.pk, labeler=labeler, now=timezone.now(), have=list(held), is_ahead=True
    )


def judge_url(model):
    return reverse("judge", args=[model.slug])


def judgement_url(assignment):
    return reverse("judgement", args=[assignment.pair.prompt.model.slug, assignment.uuid])


def undo_url(assignment):
    return reverse("judgement_undo", args=[assignment.pair.prompt.model.slug, assignment.uuid])


class TestJudge:
    def test_shows_prompt_answers_and_seven_verdicts(self, visitor, model):
        queued(model, "It is **two**.", "Three.", question="What is one plus one?")

        page = visitor.get(judge_url(model)).text

        assert "What is one plus one?" in page
        assert "It is <strong>two</strong>." in page
        assert "Three." in page
        assert re.findall(r'name="verdict"\s+value="(\w+)"', page) == Verdict.values

    def test_names_a_key_for_every_button(self, visitor, model):
        queued(model)

        page = visitor.get(judge_url(model)).text

        assert re.findall(r'aria-keyshortcuts="(\w)"', page) == list("VRYI1234567ASDFGXQZEBN")
        assert re.findall(r"<kbd[^>]*>([A-Z])</kbd>", page) == list("VRYIASDFGXQZEBN")

    def test_folds_what_came_before_the_question(self, visitor, model):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Bye."},
        ]
        QueueEntryFactory(pair__prompt__model=model, pair__prompt__messages=messages)

        page = visitor.get(judge_url(model)).text

        folded, shown = page.split('class="prompt-text"')
        assert "Be brief." in folded.split("What came before (3)")[1]
        assert "Bye." in shown

    def test_counts_what_was_done(self, visitor, model):
        queued(model, question="First?")
        queued(model, question="Second?")

        page = visitor.get(judge_url(model)).text

        assert "0 today" in page
        assert "0 in all" in page

    def test_says_how_the_pair_came_here(self, visitor, model, labeler):
        lease = leased(model, labeler)

        assert "Why this pair?" in visitor.get(judge_url(model)).text
        assert ">fresh<" in visitor.get(judge_url(model)).text
        visitor.post(judgement_url(lease), {"verdict": "left"})
        visitor.post(undo_url(lease))
        assert ">you took it back<" in visitor.get(judge_url(model)).text

    def test_calls_a_second_opinion_one(self, visitor, model):
        queued(model)
        visitor.get(judge_url(model))
        QueueEntry.objects.update(opinions=1)

        assert ">second opinion<" in visitor.get(judge_url(model)).text

    def test_calls_nobodys_own_judgement_a_second_opinion(self, visitor, model, labeler):
        lease = leased(model, labeler)
        QueueEntry.objects.update(wanted=2)
        visitor.post(judgement_url(lease), {"verdict": "left"})
        assert QueueEntry.objects.get(pair=lease.pair).opinions == 1

        shown = visitor.get(judgement_url(lease)).text

        assert "second opinion" not in shown
        assert ">you judged it<" in shown

    def test_shows_hostile_text_as_text(self, visitor, model):
        queued(model, "<script>alert(1)</script>", "</form><img src=x onerror=alert(1)>")

        page = visitor.get(judge_url(model)).text

        assert "<script>alert" not in page
        assert "<img" not in page
        assert page.count("</form>") == 3  # the verdicts', the log-out button's and the keys'

    def test_shows_admins_every_model(self, client, model):
        client.force_login(UserFactory(is_staff=True))
        queued(model)

        assert client.get(judge_url(model)).status_code == 200

    def test_hides_models_of_others(self, visitor):
        stranger = queued(RegisteredModelFactory())

        assert visitor.get(judge_url(stranger.prompt.model)).status_code == 404

    def test_asks_strangers_to_log_in(self, client, model):
        response = client.get(judge_url(model))

        assert response.status_code == 302
        assert response.url.startswith(reverse("login"))

    def test_is_not_cached(self, visitor, model):
        queued(model)

        assert "no-store" in visitor.get(judge_url(model))["Cache-Control"]


class TestBlindness:
    def test_says_nothing_about_who_wrote_what(self, visitor, model):
        adapter = ModelVersionFactory(model=model, adapter=True, number=87_123)
        prompt = PromptFactory(model=model)
        mine = CompletionFactory(
            pk=9_100_001, prompt=prompt, version=adapter, text="One.", seed=777_123,
            completion_ids=list(range(321)), sampling={"temperature": 0.7311},
        )  # fmt: skip
        other = CompletionFactory(pk=9_100_002, prompt=prompt, text="Two.", finish_reason="lengthy")
        pair = PairFactory(pk=9_200_001, prompt=prompt, first=mine, second=other)
        QueueEntryFactory(pair=pair)
        secrets = [
            adapter.label, adapter.served_name, adapter.sha256, adapter.artifact_path,
            other.version.served_name, other.version.sha256,
            str(mine.pk), str(other.pk), str(pair.pk), str(mine.seed), "321", "0.7311", "lengthy",
            "train", "sampler", "champion", "round",
        ]  # fmt: skip

        def leaks(headers):
            sent = visitor.get(judge_url(model), headers=headers).serialize().decode()
            assert "One." in sent
            return [secret for secret in secrets if secret in sent]

        assert leaks({}) == leaks(HTMX) == []
        # Nor when the pair comes back.
        lease = Assignment.objects.get()
        visitor.post(judgement_url(lease), {"verdict": "left"})
        visitor.post(undo_url(lease))
        assert leaks({}) == leaks(HTMX) == []

    def test_page_differs_only_by_side(self, visitor, model, labeler):
        # The same two texts swapped leave nothing else that could tell them apart.
        pair = PairFactory(prompt__model=model)
        lease = AssignmentFactory(pair=pair, labeler=labeler)
        page = visitor.get(judge_url(model)).text
        lease.first_is_left = False
        lease.save()

        swapped = visitor.get(judge_url(model)).text

        def bare(html):
            return re.sub(r"[A-Za-z0-9]{64}", "", html)

        back = (
            bare(swapped).replace(pair.first.text, "\0").replace(pair.second.text, pair.first.text)
        )
        assert back.replace("\0", pair.second.text) == bare(page)


class TestJudgement:
    def test_records_the_verdict_and_shows_the_next_pair(self, visitor, model, labeler):
        lease = leased(model, labeler)

        response = visitor.post(judgement_url(lease), {"verdict": "left_much", "active_ms": "1500"})

        assert response.status_code == 302
        assert response.url == judge_url(model)
        judgement = Judgement.objects.get()
        assert judgement.verdict == Verdict.LEFT_MUCH
        assert judgement.winner == lease.left
        assert judgement.active_ms == 1500

    def test_twice_is_once(self, visitor, model, labeler):
        lease = leased(model, labeler)

        for _ in range(2):
            assert visitor.post(judgement_url(lease), {"verdict": "tie"}).status_code == 302

        assert Judgement.objects.count() == 1

    def test_is_kept_when_it_comes_late(self, visitor, model, labeler):
        long_ago = timezone.now() - timedelta(days=2)
        lease = leased(model, labeler, now=long_ago)

        visitor.post(judgement_url(lease), {"verdict": "right"})

        assert Judgement.objects.get().winner == lease.right

    @pytest.mark.parametrize("data", [{}, {"verdict": ""}, {"verdict": "left_most"}])
    def test_keeps_the_pair_when_the_verdict_is_unknown(self, visitor, model, labeler, data):
        lease = leased(model, labeler, "Mine.", "Yours.")

        response = visitor.post(judgement_url(lease), data, headers=HTMX)

        assert response.status_code == 422
        assert "nothing was recorded" in response.text
        assert "Mine." in response.text
        assert not Judgement.objects.exists()

    @pytest.mark.parametrize("value", ["", "soon", "-5", "1e3", "٣", "9" * 400])
    def test_is_not_lost_to_a_broken_clock(self, visitor, model, labeler, value):
        lease = leased(model, labeler)

        visitor.post(judgement_url(lease), {"verdict": "tie", "active_ms": value})

        assert Judgement.objects.get().active_ms == 0

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [("1", 1), ("2", 2), ("3", 2), ("", 2), ("0", 2), ("two", 2), ("9" * 99, 2)],
    )
    def test_keeps_which_guidelines_the_page_showed(self, visitor, model, labeler, sent, kept):
        lease = leased(model, labeler)
        page = visitor.get(judge_url(model)).text
        assert '<input type="hidden" name="guidelines" value="1">' in page
        JudgingPolicy.objects.filter(model=model).update(guidelines_version=2)

        visitor.post(judgement_url(lease), {"verdict": "left", "guidelines": sent})

        assert Judgement.objects.get().guidelines_version == kept

    def test_takes_nothing_else_from_the_form(self, visitor, model, labeler):
        lease = leased(model, labeler)

        visitor.post(
            judgement_url(lease),
            {"verdict": "left", "winner": lease.right.pk, "revision": 9, "guidelines_version": 9},
        )

        judgement = Judgement.objects.get()
        assert (judgement.winner, judgement.revision) == (lease.left, 1)
        assert judgement.guidelines_version != 9

    def test_of_somebody_else_is_not_found(self, visitor, model):
        lease = leased(model, UserFactory())

        assert visitor.post(judgement_url(lease), {"verdict": "left"}).status_code == 404
        assert not Judgement.objects.exists()

    def test_under_another_model_is_not_found(self, visitor, model, labeler):
        lease = leased(model, labeler)
        other = MembershipFactory(user=labeler).model

        url = reverse("judgement", args=[other.slug, lease.uuid])

        assert visitor.post(url, {"verdict": "left"}).status_code == 404

    def test_needs_membership_still(self, visitor, model, labeler):
        lease = leased(model, labeler)
        labeler.memberships.all().delete()

        assert visitor.post(judgement_url(lease), {"verdict": "left"}).status_code == 404

    def test_needs_a_token(self, client, model, labeler):
        strict = type(client)(enforce_csrf_checks=True)
        strict.force_login(labeler)
        lease = leased(model, labeler)

        response = strict.post(judgement_url(lease), {"verdict": "left"})

        assert response.status_code == 403
        assert "open for too long" in response.text

    def test_shows_the_pair_after_a_login_in_between(self, visitor, model, labeler):
        lease = leased(model, labeler)

        page = visitor.get(judgement_url(lease))

        assert page.context["card"].assignment == lease
        assert not page.context["is_revision"]

    def test_reloads_the_page_when_the_session_is_over(self, client, model, labeler):
        lease = leased(model, labeler)

        response = client.post(judgement_url(lease), {"verdict": "left"}, headers=HTMX, follow=True)

        assert response["HX-Refresh"] == "true"


class TestJudgementUndo:
    @pytest.fixture
    def judged(self, visitor, model, labeler):
        """A pair that the visitor judged; another one waits."""
        lease = leased(model, labeler, "Mine.", "Yours.")
        queued(model, "Next left.", "Next right.", question="And next?")
        visitor.post(judgement_url(lease), {"verdict": "left"})
        return lease

    def test_is_offered_once_there_is_something_to_undo(self, visitor, model, labeler):
        lease = leased(model, labeler)
        queued(model, question="And next?")
        before = visitor.get(judge_url(model)).text
        visitor.post(judgement_url(lease), {"verdict": "left"})

        after = visitor.get(judge_url(model)).text

        assert "/undo/" not in before
        assert f'formaction="{undo_url(lease)}"' in after

    def test_is_offered_while_waiting(self, visitor, model, labeler):
        lease = leased(model, labeler)
        visitor.post(judgement_url(lease), {"verdict": "left"})

        page = visitor.get(judge_url(model)).text

        assert "You have judged everything" in page
        assert f'action="{undo_url(lease)}"' in page

    def test_brings_the_pair_back_and_says_so(self, visitor, model, judged):
        assert "Next left." in visitor.get(judge_url(model)).text

        response = visitor.post(undo_url(judged))

        assert (response.status_code, response.url) == (302, judge_url(model))
        page = visitor.get(judge_url(model)).text
        assert "Mine." in page
        assert "You took this one back" in page
        assert Verdict.LEFT.label in page.split("You took this one back")[1].split("</p>")[0]

    def test_says_nothing_of_the_sort_about_other_pairs(self, visitor, model, judged):
        visitor.post(undo_url(judged))
        visitor.post(judgement_url(judged), {"verdict": "right"})

        page = visitor.get(judge_url(model)).text

        assert "Next left." in page
        assert "took this one back" not in page

    def test_needs_no_verdict(self, visitor, model, judged):
        # What the browser sends along: the form is the verdicts'.
        visitor.post(undo_url(judged), {"active_ms": "12"})

        assert list(Judgement.objects.order_by("pk").values_list("verdict", flat=True)) == [
            "left",
            "",
        ]

    def test_twice_is_once(self, visitor, model, judged):
        for _ in range(2):
            assert visitor.post(undo_url(judged)).status_code == 302

        assert Judgement.objects.count() == 2

    def test_by_get_changes_nothing(self, visitor, model, judged):
        assert visitor.get(undo_url(judged)).url == judge_url(model)

        assert Judgement.objects.count() == 1

    def test_of_somebody_else_is_not_found(self, client, judged, model):
        client.force_login(MembershipFactory(model=model).user)

        assert client.post(undo_url(judged)).status_code == 404
        assert Judgement.objects.count() == 1

    def test_needs_a_token(self, client, judged, labeler):
        strict = type(client)(enforce_csrf_checks=True)
        strict.force_login(labeler)

        assert strict.post(undo_url(judged)).status_code == 403


READY = {"environment": {"state": "ready"}, "base": {"state": "done"}, "engine": {"state": "ready"}}


class TestWaiting:
    def page(self, visitor, model):
        return visitor.get(judge_url(model))

    def test_shows_the_start_of_the_engine_and_how_long_it_takes(self, visitor, model, start):
        running = {
            "state": "running",
            "since": time.time(),
            "expected_s": 100,
            "detail": "Loading.",
        }
        start(**READY | {"engine": running})

        page = self.page(visitor, model).text

        assert "Start vLLM" in page
        assert "Loading." in page
        assert "Write the first pairs" in page
        assert "about 2 minutes" in page

    def test_says_why_the_engine_did_not_start(self, visitor, model, start):
        start(**READY | {"engine": {"state": "failed", "detail": "Not enough memory."}})

        page = self.page(visitor, model).text

        assert page.count("Not enough memory.") == 1
        assert "An admin has to" in page

    def test_says_why_the_model_is_not_there(self, visitor, model, start):
        start(**READY)
        RegisteredModel.objects.update(state=RegisteredModel.State.FAILED, failure="No tokenizer.")

        page = self.page(visitor, model).text

        assert "No tokenizer." in page

    def test_says_that_prompts_are_missing(self, visitor, model, start):
        start(**READY)

        assert "An admin imports prompts" in self.page(visitor, model).text

    def test_says_that_the_first_pairs_are_being_written(self, visitor, model, start):
        start(**READY)
        PromptFactory(model=model)

        page = self.page(visitor, model).text

        assert "Write the first pairs" in page
        assert "about half a minute" in page

    def test_says_that_everything_is_judged(self, visitor, model, start):
        start(**READY)
        PairFactory(prompt__model=model)

        assert "You have judged everything that waits" in self.page(visitor, model).text

    def test_is_not_painted_again_until_it_changes(self, visitor, model, start):
        start(**READY)
        PromptFactory(model=model)
        seen = self.page(visitor, model).context["screen"].waiting.fingerprint
        url = reverse("judge_next", args=[model.slug])

        assert visitor.post(url, {"seen": seen}).status_code == 204
        assert visitor.post(url).status_code == 204

        PairFactory(prompt__model=model)
        assert "judged everything" in visitor.post(url, {"seen": seen}).text

    def test_reloads_without_javascript(self, visitor, model, start):
        start()

        assert '<meta http-equiv="refresh"' in self.page(visitor, model).text


class TestGuidelines:
    def test_are_beside_the_pair(self, visitor, model):
        model.judging_policy.guidelines = "Be **strict**."
        model.judging_policy.save()
        queued(model)

        assert "Be <strong>strict</strong>." in visitor.get(judge_url(model)).text

    def test_are_not_shown_empty(self, visitor, model):
        model.judging_policy.guidelines = ""
        model.judging_policy.save()
        queued(model)

        assert "data-guidelines" not in visitor.get(judge_url(model)).text


JSON = {"Accept": "application/json"}


def url_of(name, assignment):
    return reverse(name, args=[assignment.pair.prompt.model.slug, assignment.uuid])


def statements(captured):
    """Return what was asked of the database, without the beginnings and ends of transactions."""
    marks = ("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT")
    return [query["sql"] for query in captured if not query["sql"].startswith(marks)]


class TestJudgementFromThePage:
    SAID = {
        "verdict": "left",
        "reasons": ["clear", "safe"],
        "note": "Mine.",
        "active_ms": "1200",
        "by": "key",
    }

    def said(self, visitor, lease, **fields):
        return visitor.post(judgement_url(lease), self.SAID | fields, headers=JSON)

    def test_keeps_all_that_was_said(self, visitor, model, labeler):
        lease = leased(model, labeler)
        shown_at = timezone.now() - timedelta(seconds=9)

        answer = self.said(visitor, lease, shown_at=shown_at.isoformat())

        assert answer.json() == {
            "verdict": "left", "revision": 1, "is_new": True, "today": 1, "in_all": 1, "guidelines": 1,
        }  # fmt: skip
        judgement = Judgement.objects.get()
        assert judgement.reasons == ["clear", "safe"]
        assert judgement.note == "Mine."
        assert judgement.active_ms == 1200
        assert judgement.shown_at == shown_at
        assert judgement.input == "key"

    def test_says_which_one_stands_when_another_comes(self, visitor, model, labeler):
        lease = leased(model, labeler)
        self.said(visitor, lease)

        answer = self.said(visitor, lease, verdict="right").json()

        assert (answer["verdict"], answer["is_new"]) == ("left", False)

    def test_revises(self, visitor, model, labeler):
        lease = leased(model, labeler)
        self.said(visitor, lease)

        answer = self.said(visitor, lease, verdict="right", revise="1").json()

        assert (answer["verdict"], answer["revision"], answer["in_all"]) == ("right", 2, 1)

    @pytest.mark.parametrize("shown_at", ["", "yesterday", "2026-13-45", "1999-01-01T00:00:00Z"])
    def test_survives_a_broken_clock(self, visitor, model, labeler, shown_at):
        lease = leased(model, labeler)

        assert self.said(visitor, lease, shown_at=shown_at).status_code == 200
        assert Judgement.objects.get().shown_at is None

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"verdict": "best"}, "no such verdict"),
            ({"reasons": ["pretty"]}, "no such reason"),
            ({"note": "x" * 5001}, "Shorten it"),
        ],
    )
    def test_says_what_is_wrong(self, visitor, model, labeler, fields, why):
        lease = leased(model, labeler)

        answer = self.said(visitor, lease, **fields)

        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid"
        assert why in answer.json()["detail"]

    def test_says_in_json_what_is_not_there(self, client, model, labeler):
        lease = leased(model, labeler)
        client.force_login(MembershipFactory(model=model).user)

        answer = self.said(client, lease)

        assert answer.status_code == 404
        assert answer.json()["code"] == "not_found"

    def test_costs_six_statements_at_most(self, visitor, model, labeler):
        lease = leased(model, labeler)

        with CaptureQueriesContext(connection) as captured:
            self.said(visitor, lease)

        assert len(statements(captured)) <= 6

    def test_brings_the_next_pair_to_a_page_that_asks_for_it(self, visitor, model, labeler):
        lease, waiting = leased(model, labeler), leased_ahead(model, labeler)
        pair = queued(model, "Here it comes.", "So does this.")

        answer = self.said(visitor, lease, next="1", have=[str(waiting.uuid)]).json()

        assert answer["is_new"] is True
        assert "Here it comes." in answer["card"]
        assert f'data-uuid="{pair.assignments.get().uuid}"' in answer["card"]
        assert pair.assignments.get().expires_at < timezone.now() + judging.WAITING

    def test_brings_nothing_where_nothing_waits(self, visitor, model, labeler):
        lease = leased(model, labeler)

        answer = self.said(visitor, lease, next="1")

        assert answer.status_code == 200
        assert answer.json()["card"] == ""
        assert Judgement.objects.get().verdict == "left"

    def test_brings_the_same_pair_when_the_request_is_repeated(self, visitor, model, labeler):
        lease = leased(model, labeler)
        queued(model)
        queued(model)

        first, again = (self.said(visitor, lease, next="1").json() for _ in range(2))

        assert first["card"] == again["card"]
        assert Judgement.objects.count() == 1

    def test_costs_six_statements_with_the_next_pair(self, visitor, model, labeler):
        lease = leased(model, labeler)
        queued(model)

        with CaptureQueriesContext(connection) as captured:
            answer = self.said(visitor, lease, next="1")

        assert answer.json()["card"]
        assert len(statements(captured)) == 6


class TestRevision:
    def test_shows_what_was_said_and_leads_back(self, visitor, model, labeler):
        lease = leased(model, labeler)
        visitor.post(
            judgement_url(lease), {"verdict": "left", "reasons": ["clear"], "note": "Mine."}
        )

        page = visitor.get(judgement_url(lease)).text

        assert 'name="revise" value="1"' in page
        assert re.search(r'value="clear"\s+checked', page)
        assert "Mine." in page
        assert "verdict is-said" in page
        visitor.post(judgement_url(lease), {"verdict": "right", "revise": "1"})
        assert Judgement.objects.latest("revision").verdict == "right"


class TestNext:
    def ask(self, visitor, model, **fields):
        return visitor.post(reverse("judge_next", args=[model.slug]), fields)

    def test_is_a_card_that_the_page_does_not_have(self, visitor, model, labeler):
        first = leased(model, labeler, "One.", "Two.")
        queued(model, "Three.", "Four.")

        page = self.ask(visitor, model, have=[str(first.uuid)]).text

        assert "Three." in page
        assert "One." not in page
        assert "<html" not in page
        assert "csrf" not in page

    def test_takes_nonsense_for_nothing(self, visitor, model, labeler):
        first = leased(model, labeler)

        assert str(first.uuid) in self.ask(visitor, model, have=["x", ""], shown="y").text

    def test_comes_as_it_is_read(self, visitor, model):
        queued(model, "**Bold**", "plain")

        assert "**Bold**" in self.ask(visitor, model, **{"as": "raw"}).text

    def test_costs_six_statements_at_most(self, visitor, model, labeler):
        first = leased(model, labeler)
        queued(model)

        with CaptureQueriesContext(connection) as captured:
            assert self.ask(visitor, model, have=[str(first.uuid)]).status_code == 200

        assert len(statements(captured)) <= 6


class TestKeep:
    def test_tells_what_is_still_held(self, visitor, model, labeler):
        lease = leased(model, labeler)
        other = leased(model, MembershipFactory(model=model).user)
        url = reverse("judge_keep", args=[model.slug])

        held = visitor.post(url, {"shown": str(lease.uuid), "waiting": [str(other.uuid)]}).json()

        assert held == {"held": [str(lease.uuid)], "guidelines": 1}

    def test_tells_the_number_of_the_present_guidelines(self, visitor, model, labeler):
        lease = leased(model, labeler)
        JudgingPolicy.objects.filter(model=model).update(guidelines_version=4)

        told = visitor.post(reverse("judge_keep", args=[model.slug]), {"shown": str(lease.uuid)})

        assert told.json()["guidelines"] == 4

    def test_tells_who_is_logged_in(self, visitor, model, labeler):
        answer = visitor.get(reverse("judge_keep", args=[model.slug])).json()

        assert answer["user"] == labeler.pk
        assert answer["token"]


class TestOthers:
    def test_set_aside(self, visitor, model, labeler):
        lease = leased(model, labeler)
        queued(model, "Next.", "b")

        answer = visitor.post(url_of("judgement_later", lease), headers=JSON)

        assert answer.json() == {}
        assert "Next." in visitor.get(judge_url(model)).text

    def test_take_up_again_what_was_set_aside(self, visitor, model, labeler):
        lease = leased(model, labeler)
        queued(model, "Next.", "b")
        visitor.post(url_of("judgement_later", lease), headers=JSON)

        visitor.post(url_of("judgement_later", lease), {"is_aside": "0"}, headers=JSON)

        assert str(lease.uuid) in visitor.get(judge_url(model)).text

    def test_refuse_to_set_everything_aside(self, visitor, model, labeler):
        for _ in range(20):
            visitor.post(url_of("judgement_later", leased(model, labeler)), headers=JSON)
        lease = leased(model, labeler)

        answer = visitor.post(url_of("judgement_later", lease), headers=JSON)

        assert answer.status_code == 409
        assert answer.json()["code"] == "too_many_set_aside"
        # And without a script it is on the next page.
        page = visitor.post(url_of("judgement_later", lease), follow=True).text
        assert "put off 20 pairs" in page

    def test_flag(self, visitor, model, labeler):
        lease = leased(model, labeler)

        assert visitor.post(url_of("judgement_flag", lease), headers=JSON).json() == {}

    def test_undo_tells_what_was_said_and_what_comes_before(self, visitor, model, labeler):
        before, last = leased(model, labeler), None
        visitor.post(judgement_url(before), {"verdict": "left"})
        last = leased(model, labeler)
        visitor.post(judgement_url(last), {"verdict": "tie", "note": "Hm."})

        answer = visitor.post(undo_url(last), headers=JSON).json()

        assert answer == {
            "revision": 2,
            "judged_last": str(before.uuid),
            "said": {"verdict": "tie", "reasons": [], "note": "Hm."},
        }

    def test_undo_of_another_revision_changes_nothing(self, visitor, model, labeler):
        lease = leased(model, labeler)
        visitor.post(judgement_url(lease), {"verdict": "left", "of": "0"})
        visitor.post(judgement_url(lease), {"verdict": "tie", "revise": "1", "of": "1"})

        answer = visitor.post(undo_url(lease), {"of": "1"}, headers=JSON)

        assert (answer.status_code, answer.json()["revision"]) == (200, 2)
        assert Judgement.objects.latest("revision").verdict == "tie"
        assert visitor.post(undo_url(lease), {"of": "2"}, headers=JSON).json()["revision"] == 3

    def test_what_was_taken_back_comes_with_reasons_note_and_flag(self, visitor, model, labeler):
        lease = leased(model, labeler)
        said = {"verdict": "left", "reasons": ["clear", "tone"], "note": '"Hm" <b>'}
        visitor.post(judgement_url(lease), said)
        visitor.post(undo_url(lease))
        visitor.post(reverse("judgement_flag", args=[model.slug, lease.uuid]))

        shown = visitor.get(judge_url(model)).text
        fetched = visitor.post(reverse("judge_next", args=[model.slug])).text

        for page in (shown, fetched):
            card = page[page.index("<article") :]
            assert 'data-revisions="2"' in card
            assert "data-flagged" in card
            assert 'data-taken-back-reasons="clear tone"' in card
            assert 'data-taken-back-note="&quot;Hm&quot; &lt;b&gt;"' in card

    def test_reasons_that_do_not_go_with_the_verdict_are_left_out(self, visitor, model, labeler):
        lease = leased(model, labeler)
        both = ["clear", "broken"]
        visitor.post(judgement_url(lease), {"verdict": "cannot_judge", "reasons": both})
        page = visitor.get(judgement_url(lease)).text
        assert re.search(r'value="broken"\s+checked', page)

        visitor.post(judgement_url(lease), {"verdict": "left", "reasons": both, "revise": "1"})

        assert 'value="broken"' not in visitor.get(judgement_url(lease)).text
        for neither in ("tie", "both_bad"):
            visitor.post(judgement_url(lease), {"verdict": neither, "reasons": both, "revise": "1"})
        assert list(Judgement.objects.order_by("revision").values_list("reasons", flat=True)) == [
            ["broken"], ["clear"], [], [],
        ]  # fmt: skip

    def test_view_shows_a_pair_in_another_way(self, visitor, model, labeler):
        lease = leased(model, labeler, "**Bold**", "plain")

        page = visitor.get(url_of("judge_view", lease), {"as": "raw"}).text

        assert "**Bold**" in page
        assert page.count("<article") == 1
        assert "<strong>" in visitor.get(url_of("judge_view", lease), {"as": "x"}).text
