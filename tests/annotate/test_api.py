from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from annotate import imports, judging
from annotate.forms import LONGEST_NOTE
from annotate.models import Assignment, Completion, Judgement, Prompt, QueueEntry
from tests import factories

pytestmark = pytest.mark.django_db

BODY = {"verdict": "left", "reasons": ["clear"], "note": "Shorter.", "active_ms": 1200}


@pytest.fixture
def model():
    return factories.RegisteredModelFactory()


@pytest.fixture
def labeler(model):
    return factories.MembershipFactory(model=model).user


@pytest.fixture
def caller(client, labeler):
    client.force_login(labeler)
    return client


@pytest.fixture
def admin():
    client = Client()
    client.force_login(factories.UserFactory(is_staff=True))
    return client


def leased(model, labeler, *, now=None):
    """Queue a pair and lease it to somebody."""
    factories.QueueEntryFactory(pair__prompt__model=model)
    return judging.pair_assign(model_id=model.pk, labeler=labeler, now=now or timezone.now())


def judgement_url(assignment):
    return f"/api/v1/assignments/{assignment.uuid}/judgement/"


def say(client, assignment, **body):
    return client.post(judgement_url(assignment), BODY | body, content_type="application/json")


class TestAssignments:
    def ask(self, client, model):
        return client.post(f"/api/v1/models/{model.slug}/assignments/")

    def test_leases_a_pair(self, caller, model, labeler):
        messages = [{"role": "user", "content": "Say hello."}]
        factories.QueueEntryFactory(pair__prompt__model=model, pair__prompt__messages=messages)
        model.judging_policy.guidelines_version = 4
        model.judging_policy.save()

        response = self.ask(caller, model)

        assert response.status_code == 201
        lease = Assignment.objects.get(labeler=labeler)
        assert response.json() == {
            "id": str(lease.uuid),
            "prompt": messages,
            "left": {"text": lease.left.text},
            "right": {"text": lease.right.text},
            "guidelines_version": 4,
            "expires_at": lease.expires_at.isoformat().replace("+00:00", "Z"),
        }

    def test_returns_the_lease_that_is_held(self, caller, model):
        factories.QueueEntryFactory.create_batch(2, pair__prompt__model=model, model=model)

        assert self.ask(caller, model).json() == self.ask(caller, model).json()
        assert Assignment.objects.count() == 1

    def test_is_empty_when_nothing_waits(self, caller, model):
        response = self.ask(caller, model)

        assert response.status_code == 204
        assert response.content == b""

    def test_does_not_find_the_models_of_others(self, caller):
        stranger = factories.QueueEntryFactory().model

        response = self.ask(caller, stranger)

        assert response.status_code == 404
        assert response.json()["code"] == "not_found"

    def test_is_open_to_admins(self, admin, model):
        factories.QueueEntryFactory(pair__prompt__model=model)

        assert self.ask(admin, model).status_code == 201

    def test_refuses_strangers(self, client, model):
        response = self.ask(client, model)

        assert response.status_code == 401
        assert response.json()["code"] == "not_authenticated"

    def test_says_nothing_about_who_wrote_what(self, caller, model):
        adapter = factories.ModelVersionFactory(model=model, adapter=True, number=87_123)
        prompt = factories.PromptFactory(model=model)
        mine = factories.CompletionFactory(
            pk=9_100_001, prompt=prompt, version=adapter, text="One.", seed=777_123,
            completion_ids=list(range(54_321)), sampling={"temperature": 0.7311},
        )  # fmt: skip
        other = factories.CompletionFactory(
            pk=9_100_002, prompt=prompt, text="Two.", finish_reason="lengthy"
        )
        pair = factories.PairFactory(pk=9_200_001, prompt=prompt, first=mine, second=other)
        factories.QueueEntryFactory(pair=pair)
        secrets = [
            adapter.label, adapter.served_name, adapter.sha256, adapter.artifact_path,
            other.version.served_name, other.version.sha256, str(mine.pk), str(other.pk),
            str(pair.pk), str(mine.seed), "54321", "0.7311", "lengthy", "train", "sampler",
            "champion", "round", "version\":87",
        ]  # fmt: skip

        assigned = self.ask(caller, model)
        judged = say(caller, Assignment.objects.get())

        for response in (assigned, judged):
            sent = response.serialize().decode()
            assert [secret for secret in secrets if secret in sent] == []


class TestJudgement:
    def test_is_recorded(self, caller, model, labeler):
        lease = leased(model, labeler)

        response = say(caller, lease)

        assert response.status_code == 201
        judgement = Judgement.objects.get()
        assert judgement.winner == lease.left
        assert response.json() == BODY | {
            "assignment": str(lease.uuid),
            "revision": 1,
            "judged_at": judgement.judged_at.isoformat().replace("+00:00", "Z"),
        }

    def test_needs_no_more_than_a_verdict(self, caller, model, labeler):
        lease = leased(model, labeler)

        response = caller.post(
            judgement_url(lease), {"verdict": "tie"}, content_type="application/json"
        )

        assert response.status_code == 201
        judgement = Judgement.objects.get()
        assert (judgement.reasons, judgement.note, judgement.active_ms) == ([], "", 0)

    def test_is_the_same_when_repeated(self, caller, model, labeler):
        lease = leased(model, labeler)
        first = say(caller, lease)

        for revise in (False, True):
            again = say(caller, lease, active_ms=7, revise=revise)

            assert again.status_code == 200
            assert again.json() == first.json()
        assert Judgement.objects.count() == 1

    @pytest.mark.parametrize(
        "other", [{"verdict": "right"}, {"reasons": ["clear", "safe"]}, {"note": ""}], ids=str
    )
    def test_is_changed_only_when_it_says_so(self, caller, model, labeler, other):
        lease = leased(model, labeler)
        say(caller, lease)

        refused = say(caller, lease, **other)

        assert refused.status_code == 409
        assert refused.json()["code"] == "judged_already"
        assert '"revise": true' in refused.json()["detail"]
        assert Judgement.objects.count() == 1

        revised = say(caller, lease, **other, revise=True)

        assert revised.status_code == 201
        assert revised.json() == revised.json() | BODY | other | {"revision": 2}
        assert Judgement.objects.count() == 2

    def test_is_kept_when_it_comes_late(self, caller, model, labeler):
        lease = leased(model, labeler, now=timezone.now() - timedelta(days=2))

        assert say(caller, lease).status_code == 201

    @pytest.mark.parametrize(
        "wrong",
        [
            {"verdict": ""},
            {"verdict": "best"},
            {"verdict": None},
            {"verdict": ["left"]},
            {"reasons": "clear"},
            {"reasons": ["clear", "bogus"]},
            {"reasons": [{}]},
            {"note": "a\x00b"},
            {"note": "x" * (LONGEST_NOTE + 1)},
            {"note": "\ud800"},
            {"active_ms": -1},
            {"active_ms": 2**31},
            {"active_ms": "soon"},
        ],
        ids=lambda wrong: str(wrong)[:40],
    )
    def test_is_refused_when_it_makes_no_sense(self, caller, model, labeler, wrong):
        lease = leased(model, labeler)

        response = say(caller, lease, **wrong)

        assert response.status_code == 400
        assert response.json()["code"] == "invalid"
        assert next(iter(wrong)) in response.json()["detail"]
        assert not Judgement.objects.exists()

    @pytest.mark.parametrize("body", ["", "{", "[]", "7", '"left"', "null"])
    def test_is_refused_when_it_is_no_object(self, caller, model, labeler, body):
        lease = leased(model, labeler)

        response = caller.post(judgement_url(lease), body, content_type="application/json")

        assert response.status_code == 400
        assert set(response.json()) == {"detail", "code"}

    @pytest.mark.parametrize(
        ("verdict", "reasons", "sentence"),
        [
            ("tie", ["clear"], "clear does not go with tie. Send none."),
            ("both_bad", ["other"], "other does not go with both_bad. Send none."),
            (
                "cannot_judge",
                ["other", "safe"],
                "safe does not go with cannot_judge. Use expertise,",
            ),
            ("right_much", ["safe", "other"], "other does not go with right_much. Use correct,"),
        ],
    )
    def test_is_refused_with_reasons_of_another_verdict(
        self, caller, model, labeler, verdict, reasons, sentence
    ):
        response = say(caller, leased(model, labeler), verdict=verdict, reasons=reasons)

        assert response.status_code == 400
        assert sentence in response.json()["detail"]
        assert not Judgement.objects.exists()

    def test_of_somebody_else_is_not_found(self, caller, model):
        lease = leased(model, factories.UserFactory())

        for response in (say(caller, lease), caller.delete(judgement_url(lease))):
            assert response.status_code == 404
        assert not Judgement.objects.exists()

    def test_of_an_admin_is_only_for_their_own(self, admin, model, labeler):
        assert say(admin, leased(model, labeler)).status_code == 404

    def test_needs_membership_still(self, caller, model, labeler):
        lease = leased(model, labeler)
        labeler.memberships.all().delete()

        assert say(caller, lease).status_code == 404

    def test_of_nothing_is_not_found(self, caller):
        response = say(caller, Assignment(uuid=uuid.uuid4()))

        assert response.status_code == 404
        assert response.json()["code"] == "not_found"

    def test_is_taken_back(self, caller, model, labeler):
        lease = leased(model, labeler)
        say(caller, lease)

        for _ in range(2):
            response = caller.delete(judgement_url(lease))
            assert (response.status_code, response.content) == (204, b"")

        assert list(Judgement.objects.order_by("pk").values_list("verdict", flat=True)) == [
            "left",
            "",
        ]
        again = caller.post(f"/api/v1/models/{model.slug}/assignments/")
        assert again.json()["id"] == str(lease.uuid)

    def test_may_be_another_one_after_an_undo(self, caller, model, labeler):
        lease = leased(model, labeler)
        say(caller, lease)
        caller.delete(judgement_url(lease))

        response = say(caller, lease, verdict="right")

        assert response.status_code == 201
        assert (response.json()["verdict"], response.json()["revision"]) == ("right", 3)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
class TestJudgementInParallel:
    def test_fifty_posts_make_one_row(self):
        member = factories.MembershipFactory()
        lease = leased(member.model, member.user)

        def post(_index):
            client = Client()
            client.force_login(member.user)
            try:
                response = say(client, lease)
                return response.status_code, response.json()
            finally:
                connections.close_all()

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(post, range(50)))

        assert Judgement.objects.count() == 1
        assert sorted(code for code, _ in answers) == [200] * 49 + [201]
        assert all(body == answers[0][1] for _, body in answers)
        assert not QueueEntry.objects.exists()


class TestTriples:
    def read(self, client, model, query=""):
        response = client.get(f"/api/v1/models/{model.slug}/triples/{query}")
        assert response.status_code == 200
        assert response["Content-Type"] == "application/jsonl"
        return [json.loads(line) for line in response.getvalue().decode().splitlines()]

    def judged(self, model, verdict, **completion):
        prompt = factories.PromptFactory(model=model, tags=["sums"])
        completions = factories.CompletionFactory.create_batch(2, prompt=prompt, **completion)
        pair = factories.PairFactory(prompt=prompt, first=completions[0], second=completions[1])
        return factories.JudgementFactory(assignment__pair=pair, verdict=verdict)

    def test_are_conversations_with_where_they_came_from(self, admin, model):
        judgement = self.judged(model, "right_much")
        pair = judgement.assignment.pair

        (line,) = self.read(admin, model)

        assert line == {
            "prompt": pair.prompt.messages,
            "chosen": [{"role": "assistant", "content": pair.second.text}],
            "rejected": [{"role": "assistant", "content": pair.first.text}],
            "target": 0.98,
            "weight": 1.0,
            "tags": ["sums"],
            "origin": "judgement",
            "pair": pair.pk,
            "judgements": [judgement.pk],
            "version": {"chosen": 0, "rejected": 0},
            "finish": {"chosen": "stop", "rejected": "stop"},
            "tokens": {"prompt": [1, 2, 3], "chosen": [4, 5, 2], "rejected": [4, 5, 2]},
        }

    def test_are_good_and_bad_when_asked_for(self, admin, model):
        self.judged(model, "left")

        (line,) = self.read(admin, model, "?keys=good_bad")

        assert {"prompt", "good", "bad"} < set(line)
        assert set(line["tokens"]) == {"prompt", "good", "bad"}
        assert not {"chosen", "rejected"} & set(line)

    def test_have_ties_only_when_asked_for(self, admin, model):
        self.judged(model, "tie")
        self.judged(model, "left")

        assert [line["target"] for line in self.read(admin, model)] == [0.85]
        assert [line["target"] for line in self.read(admin, model, "?ties=1")] == [0.5, 0.85]

    def test_leave_out_held_out_prompts(self, admin, model):
        factories.JudgementFactory(
            assignment__pair__prompt__model=model, assignment__pair__prompt__split="holdout"
        )

        assert self.read(admin, model) == []

    def test_are_one_a_line_whatever_the_text(self, admin, model):
        self.judged(model, "left", text="a\nb\u2028c\r\x85d", origin=Completion.Origin.ENGINE)

        response = admin.get(f"/api/v1/models/{model.slug}/triples/")

        body = response.getvalue().decode()
        assert body.count("\n") == 1
        assert json.loads(body)["chosen"][0]["content"] == "a\nb\u2028c\r\x85d"

    def test_can_be_asked_for_by_type(self, admin, model):
        url = f"/api/v1/models/{model.slug}/triples/"

        assert admin.get(url, headers={"Accept": "application/jsonl"}).status_code == 200

    def test_refuse_unknown_keys(self, admin, model):
        response = admin.get(f"/api/v1/models/{model.slug}/triples/?keys=yes_no")

        assert response.status_code == 400
        assert json.loads(response.content)["code"] == "invalid"

    def test_are_for_admins(self, caller, model):
        response = caller.get(f"/api/v1/models/{model.slug}/triples/")

        assert response.status_code == 404
        assert json.loads(response.content)["code"] == "not_found"

    def test_of_no_model_are_not_found(self, admin):
        assert admin.get("/api/v1/models/nowhere/triples/").status_code == 404


class TestTriplesImport:
    @pytest.fixture(autouse=True)
    def folder(self, settings, tmp_path):
        settings.IMPORTS = tmp_path / "imports"

    def path(self, model) -> str:
        return f"/api/v1/models/{model.slug}/triples/"

    def line(self, number) -> bytes:
        answers = {"chosen": f"{number}.", "rejected": "No idea."}
        return json.dumps({"prompt": f"What is {number}?"} | answers).encode() + b"\n"

    def test_is_accepted_and_tells_how_far_it_is(self, admin, model):
        body = self.line(1) + b"7\n" + self.line(1)

        answer = admin.post(self.path(model), body, content_type="application/jsonl")

        assert answer.status_code == 202
        assert answer["Content-Type"] == "application/json"
        told = answer.json()
        assert (told["state"], told["progress"]) == ("queued", 0)
        where = f"/api/v1/models/{model.slug}/imports/{told['id']}/"
        imports.import_run(import_id=told["id"])
        done = admin.get(where).json()
        assert {key: done[key] for key in ("state", "created", "duplicates", "rejected_count")} == {
            "state": "done", "created": 1, "duplicates": 1, "rejected_count": 1,
        }  # fmt: skip
        assert done["rejected"][0]["line"] == 2
        assert done["progress"] == 1
        other = factories.RegisteredModelFactory()
        assert admin.get(f"/api/v1/models/{other.slug}/imports/{told['id']}/").status_code == 404

    def test_streams_what_is_larger_than_a_form_may_be(self, admin, model, settings):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
        body = b"".join(map(self.line, range(50)))

        answer = admin.post(self.path(model), body, content_type="application/octet-stream")

        assert answer.status_code == 202
        assert answer.json()["format"] == "jsonl"

    def test_takes_parquet_as_it_was_exported(self, admin, model):
        factories.ImportedPreferenceFactory(model=model)
        file = admin.get(self.path(model) + "?format=parquet").getvalue()
        other = factories.RegisteredModelFactory()

        kind = "application/vnd.apache.parquet"
        told = admin.post(self.path(other), file, content_type=kind).json()
        imports.import_run(import_id=told["id"])

        done = admin.get(f"/api/v1/models/{other.slug}/imports/{told['id']}/").json()
        assert (done["created"], done["format"], done["failure"]) == (1, "parquet", "")

    @pytest.mark.parametrize(
        ("body", "kind", "status", "code"),
        [
            (b"", "application/jsonl", 409, "file_unreadable"),
            (b"[1]", "application/jsonl", 409, "file_unreadable"),
            (b"x", "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
        ],
    )
    def test_refuses_what_is_no_such_file(self, admin, model, body, kind, status, code):
        answer = admin.post(self.path(model), body, content_type=kind)

        assert (answer.status_code, answer.json()["code"]) == (status, code)

    def test_is_for_admins(self, caller, model):
        found = factories.ImportFactory(model=model)

        answer = caller.post(self.path(model), self.line(1), content_type="application/jsonl")

        assert answer.status_code == 404
        assert caller.get(f"/api/v1/models/{model.slug}/imports/{found.pk}/").status_code == 404


class TestPrompts:
    def path(self, model) -> str:
        return f"/api/v1/models/{model.slug}/prompts/"

    def test_keep_the_good_and_report_the_bad_by_number(self, admin, model):
        body = [{"prompt": "One?"}, {"prompt": ""}, {"prompt": "One?"}, 7]

        answer = admin.post(self.path(model), body, content_type="application/json")

        assert answer.status_code == 200
        assert {key: answer.json()[key] for key in ("created", "duplicates")} == {
            "created": 1, "duplicates": 1,
        }  # fmt: skip
        assert [line["line"] for line in answer.json()["rejected"]] == [2, 4]

    def test_come_as_lines_too(self, admin, model):
        body = '{"prompt": "One?"}\n\nnonsense\n{"prompt": "Two?"}\n'

        answer = admin.post(self.path(model), body, content_type="application/jsonl")

        assert answer.json()["created"] == 2
        assert answer.json()["rejected"] == [{"line": 3, "reason": "This is not JSON."}]

    def test_come_as_csv_too(self, admin, model):
        body = "tags,prompt\na;b,One?\n,\n"

        answer = admin.post(self.path(model), body, content_type="text/csv")

        assert (answer.json()["created"], answer.json()["rejected"][0]["line"]) == (1, 3)
        assert Prompt.objects.get().tags == ["a", "b"]

    @pytest.mark.parametrize("kind", ["application/jsonl", "text/csv"])
    def test_may_not_be_larger_than_memory_allows(self, admin, model, settings, kind):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1024**2

        answer = admin.post(self.path(model), b"x" * (1024**2 + 1), content_type=kind)

        assert answer.status_code == 400
        assert "larger than 1 MiB" in answer.json()["detail"]

    def test_may_say_their_charset(self, admin, model):
        kind = "application/jsonl; charset=utf-8"

        answer = admin.post(self.path(model), '{"prompt": "One?"}', content_type=kind)

        assert answer.json()["created"] == 1

    def test_report_what_is_no_text(self, admin, model):
        body = '[{"prompt": "One?", "tags": ["\\ud800"]}, {"prompt": "Two?"}]'

        answer = admin.post(self.path(model), body, content_type="application/json")

        assert (answer.json()["created"], answer.json()["rejected"][0]["line"]) == (1, 1)

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ('{"prompt": "One?"}', "application/json"),
            ("[", "application/json"),
            (b"\xff", "application/jsonl"),
        ],
    )
    def test_refuse_what_is_no_list(self, admin, model, body, kind):
        answer = admin.post(self.path(model), body, content_type=kind)

        assert answer.status_code == 400
        assert set(answer.json()) == {"detail", "code"}
        assert not Prompt.objects.exists()

    def test_come_from_staff_only(self, caller, model):
        answer = caller.post(self.path(model), [], content_type="application/json")

        assert answer.status_code == 404


class TestPromptsList:
    def ask(self, client, model, **query):
        return client.get(f"/api/v1/models/{model.slug}/prompts/", query)

    def test_tells_the_newest_first(self, admin, model):
        old, new = factories.PromptFactory.create_batch(2, model=model, tags=["maths"])
        factories.PromptFactory()

        told = self.ask(admin, model).json()

        assert [prompt["id"] for prompt in told["results"]] == [new.pk, old.pk]
        assert told["results"][0] == {
            "id": new.pk,
            "messages": new.messages,
            "split": "train",
            "tags": ["maths"],
            "refusal": "",
            "created_at": new.created_at.isoformat().replace("+00:00", "Z"),
        }

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"split": "holdout"}, [1]),
            ({"tag": "a"}, [2, 0]),
            ({"tag": "a", "split": "train"}, [2, 0]),
            ({"tag": "A"}, []),
            ({"ordering": "id"}, [0, 1, 2]),
            ({"ordering": "-id", "page_size": 2}, [2, 1]),
        ],
    )
    def test_is_filtered(self, admin, model, query, found):
        prompts = [
            factories.PromptFactory(model=model, tags=["a", "b"]),
            factories.PromptFactory(model=model, split="holdout"),
            factories.PromptFactory(model=model, tags=["a"]),
        ]

        told = self.ask(admin, model, **query).json()["results"]

        assert [prompt["id"] for prompt in told] == [prompts[n].pk for n in found]

    @pytest.mark.parametrize("query", [{"split": "test"}, {"tag": "\x00"}, {"tag": "x" * 51}])
    def test_refuses_what_makes_no_sense(self, admin, model, query):
        answer = self.ask(admin, model, **query)

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


class TestJudgementsList:
    def ask(self, client, model, **query):
        answer = client.get(f"/api/v1/models/{model.slug}/judgements/", query)
        return [judgement["id"] for judgement in answer.json()["results"]]

    def test_tells_what_stands(self, admin, model):
        taken_back = factories.JudgementFactory(assignment__pair__prompt__model=model)
        factories.JudgementFactory(assignment=taken_back.assignment, revision=2, verdict="")
        stands = factories.JudgementFactory(
            assignment__pair__prompt__model=model, note="Kinder.", reasons=["clear"]
        )
        factories.JudgementFactory()

        told = admin.get(f"/api/v1/models/{model.slug}/judgements/").json()["results"]

        assert [row["id"] for row in told] == [stands.pk]
        assert told[0] | {"note": "Kinder.", "reasons": ["clear"], "verdict": "left"} == told[0]
        assert told[0]["labeler"] == stands.assignment.labeler.username
        assert told[0]["pair"] == stands.assignment.pair_id
        assert told[0]["winner"] == stands.winner_id

    def test_is_filtered(self, admin, model):
        first, second = [
            factories.JudgementFactory(assignment__pair__prompt__model=model, verdict=verdict)
            for verdict in ("left", "tie")
        ]

        assert self.ask(admin, model) == [second.pk, first.pk]
        assert self.ask(admin, model, verdict="tie") == [second.pk]
        assert self.ask(admin, model, labeler=first.assignment.labeler.username) == [first.pk]
        assert self.ask(admin, model, since=first.pk) == [second.pk]
        assert self.ask(admin, model, ordering="id") == [first.pk, second.pk]

    def test_costs_the_same_however_many_there_are(
        self, admin, model, django_assert_max_num_queries
    ):
        factories.JudgementFactory.create_batch(5, assignment__pair__prompt__model=model)

        with django_assert_max_num_queries(6):
            assert len(self.ask(admin, model)) == 5


class TestTriplesFilters:
    def ask(self, client, model, **query):
        answer = client.get(f"/api/v1/models/{model.slug}/triples/", query)
        assert answer.status_code == 200
        return [json.loads(line)["pair"] for line in answer.getvalue().splitlines()]

    @pytest.fixture
    def judged(self, model):
        by_base = factories.JudgementFactory(assignment__pair__prompt__model=model)
        adapter = factories.ModelVersionFactory(model=model, adapter=True)
        prompt = factories.PromptFactory(model=model, tags=["maths"])
        pair = factories.PairFactory(prompt=prompt, first__version=adapter, second__version=adapter)
        return [by_base, factories.JudgementFactory(assignment__pair=pair)]

    def test_since_tag_and_version(self, admin, model, judged):
        base, adapter = (judgement.assignment.pair_id for judgement in judged)

        # What a reader guesses types from comes first, whatever its id.
        assert sorted(self.ask(admin, model)) == [base, adapter]
        assert self.ask(admin, model, tag="maths") == [adapter]
        assert self.ask(admin, model, version=0) == [base]
        assert self.ask(admin, model, version=1, tag="maths", keys="chosen_rejected") == [adapter]
        assert self.ask(admin, model, since=judged[0].pk) == [adapter]
        assert self.ask(admin, model, since=judged[1].pk) == []

    def test_since_finds_an_old_pair_that_somebody_judged_again(self, admin, model, judged):
        last = judged[1].pk
        again = factories.JudgementFactory(assignment__pair=judged[0].assignment.pair)

        assert self.ask(admin, model, since=last) == [again.assignment.pair_id]

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({"since": "-1"}, "invalid"),
            ({"since": "1.5"}, "invalid"),
            ({"since": str(2**63)}, "invalid"),
            ({"version": "v1"}, "invalid"),
            ({"tags": "maths"}, "unknown_filter"),
        ],
    )
    def test_refuse_what_makes_no_sense(self, admin, model, query, code):
        answer = admin.get(f"/api/v1/models/{model.slug}/triples/", query)

        assert (answer.status_code, answer.json()["code"]) == (400, code)


class TestBodies:
    def test_have_an_end(self, admin, model, settings):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1024**2
        long = json.dumps([{"prompt": "x" * 2**20}])

        refused = admin.post(
            f"/api/v1/models/{model.slug}/prompts/", long, content_type="application/json"
        )

        assert refused.status_code == 400
        assert "larger than 1 MiB" in refused.json()["detail"]
