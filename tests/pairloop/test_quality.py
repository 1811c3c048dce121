from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotate import flags
from annotate.models import (
    Assignment,
    Flag,
    Gold,
    Judgement,
    JudgingPolicy,
    Pair,
    QueueEntry,
    Tally,
)
from models_registry.models import RegisteredModel
from pairloop.pages import quality_queries
from tests import factories

pytestmark = pytest.mark.django_db

URL = "/models/demo/quality/"
API = "/api/v1/models/demo/"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def model() -> RegisteredModel:
    return factories.RegisteredModelFactory.create(slug="demo")


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(factories.UserFactory.create(is_staff=True, username="ada"))
    return client


@pytest.fixture
def labeler(model: RegisteredModel) -> User:
    return factories.MembershipFactory.create(model=model, user__username="lee").user


def pair_of(model: RegisteredModel, **fields: object) -> Pair:
    return factories.PairFactory.create(prompt__model=model, **fields)


def said(pair: Pair, verdict: str, by: User | None = None, **fields: object) -> Judgement:
    who = {"labeler": by} if by else {}
    lease = factories.AssignmentFactory.create(pair=pair, closed_at=timezone.now(), **who)
    return factories.JudgementFactory.create(assignment=lease, verdict=verdict, **fields)


def disputed(model: RegisteredModel, **fields: object) -> Pair:
    """A pair on which two people are sure of the opposite."""
    pair = pair_of(model, **fields)
    said(pair, "left_much")
    said(pair, "right_much", note="The left one lies.", reasons=["correct"])
    return pair


def words(page: str) -> str:
    return " ".join(page.split())


class TestAccess:
    @pytest.mark.parametrize("path", ["", "gold/", "gold/1/retire/", "leases/of/1/", "flags/1/"])
    def test_is_hidden_from_labelers(
        self, client: Client, model: RegisteredModel, labeler: User, path: str
    ) -> None:
        client.force_login(labeler)

        assert client.get(URL + path).status_code == 404
        assert client.post(URL + path).status_code in {404, 405}

    @pytest.mark.parametrize("path", ["quality/", "golds/"])
    def test_over_rest_is_hidden_from_labelers(
        self, client: Client, model: RegisteredModel, labeler: User, path: str
    ) -> None:
        client.force_login(labeler)

        assert client.get(API + path).status_code == 404

    def test_touches_nothing_of_another_model(self, admin: Client, model: RegisteredModel) -> None:
        other = factories.RegisteredModelFactory.create()
        gold = factories.GoldFactory.create(model=other)
        flag = factories.FlagFactory.create(assignment__pair__prompt__model=other)
        lease = factories.AssignmentFactory.create(pair=pair_of(other))
        pair = disputed(other)

        for path, body in (
            (f"gold/{gold.pk}/retire/", {}),
            (f"flags/{flag.pk}/", {"resolution": "So."}),
            (f"leases/{lease.pk}/", {}),
            ("gold/", {"pair": pair.pk, "expected": pair.first_id}),
        ):
            assert admin.post(URL + path, body).status_code == 404, path
        assert Gold.objects.filter(retired_at=None).count() == 1


class TestEmptyPage:
    def test_says_when_there_will_be_something(self, admin: Client, model: RegisteredModel) -> None:
        page = words(admin.get(URL).text)

        assert "Nobody judged a pair in the last 30 days" in page
        assert "Nobody holds a pair just now." in page
        assert "make a gold pair of a judged one" in page

    def test_says_why_agreement_is_undefined(self, admin: Client, model: RegisteredModel) -> None:
        said(pair_of(model), "left")

        page = words(admin.get(URL).text)

        assert "Nothing was judged by two people yet." in page
        assert "nobody could disagree" in page
        assert "nan" not in page.lower().replace("nano", "")


class TestPage:
    def test_shows_agreement_with_what_it_rests_on(
        self, admin: Client, model: RegisteredModel
    ) -> None:
        disputed(model)

        page = words(admin.get(URL).text)

        assert "1 pair, 2 labelers, 2 judgements" in page
        assert "No better than chance." in page

    def test_says_that_numbers_are_advice(
        self, admin: Client, model: RegisteredModel, labeler: User
    ) -> None:
        for _ in range(30):
            said(pair_of(model), "left", labeler)

        page = words(admin.get(URL).text)

        assert "A number is no verdict about a person" in page
        assert "more left" in page
        assert "89% to 100%" in page

    def test_shows_disagreements_with_all_that_was_said(
        self, admin: Client, model: RegisteredModel
    ) -> None:
        pair = disputed(model, first__text="One *true* answer.", second__text="Another one.")

        page = words(admin.get(URL).text)

        assert f"Pair {pair.pk}" in page
        assert "Opposites, both sure" in page
        assert "A is much better" in page
        assert "B is much better (more correct)" in page
        assert "“The left one lies.”" in page
        assert "One <em>true</em> answer." in page

    def test_pages_through_disagreements(self, admin: Client, model: RegisteredModel) -> None:
        for _ in range(quality_queries.STEP + 1):
            disputed(model)

        first = admin.get(URL)
        rest = admin.get(URL, {"from": quality_queries.STEP + 1})

        assert "1 to 10 of 11 pairs" in words(first.text)
        assert "from=11#disputed" in first.text
        assert "11 to 11 of 11 pairs" in words(rest.text)
        assert "from=1#disputed" in rest.text
        for nonsense in ("0", "-1", "x", "99", "9" * 30):
            assert "1 to 10 of 11" in words(admin.get(URL, {"from": nonsense}).text)

    def test_looks_back_as_far_as_it_is_asked(self, admin: Client, model: RegisteredModel) -> None:
        said(pair_of(model), "left", judged_at=timezone.now() - timedelta(days=10))

        assert "Nobody judged a pair" in words(admin.get(URL, {"days": 7}).text)
        assert "1 judgement by 1 labeler in 30 days" in words(admin.get(URL, {"days": "x"}).text)

    def test_counts_all_time_by_the_tallies(
        self, admin: Client, model: RegisteredModel, labeler: User
    ) -> None:
        said(pair_of(model), "left")
        Tally.objects.create(model=model, labeler=labeler, judged=41)
        Tally.objects.create(model=model, labeler=factories.UserFactory.create(), judged=2)
        Tally.objects.create(
            model=factories.RegisteredModelFactory.create(), labeler=labeler, judged=9
        )

        assert "43 stand in all." in words(admin.get(URL).text)

    def test_shows_weeks_where_there_are_many_days(
        self, admin: Client, model: RegisteredModel
    ) -> None:
        for days in (0, 60):
            said(pair_of(model), "left", judged_at=timezone.now() - timedelta(days=days))

        assert "Judgements, by week from" in admin.get(URL, {"days": 90}).text
        assert "Judgements, by day" in admin.get(URL).text

    def test_runs_nothing_that_people_wrote(self, admin: Client, model: RegisteredModel) -> None:
        pair = disputed(
            model, first__text=HOSTILE, prompt__messages=[{"role": "user", "content": HOSTILE}]
        )
        said(pair, "tie", note=HOSTILE)
        factories.FlagFactory.create(assignment=pair.assignments.first(), note=HOSTILE)

        page = admin.get(URL).text

        assert "<script>alert" not in page
        assert "<img src=x" not in page

    def test_asks_as_much_of_many_as_of_few(self, admin: Client, model: RegisteredModel) -> None:
        counts = []
        for _ in range(2):
            for _ in range(3):
                pair = disputed(model)
                factories.FlagFactory.create(assignment=pair.assignments.first())
                factories.AssignmentFactory.create(pair=pair_of(model))
                factories.GoldFactory.create(model=model)
            with CaptureQueriesContext(connection) as captured:
                assert admin.get(URL).status_code == 200
            counts.append(len(captured))

        assert counts[0] == counts[1] <= 20


class TestGold:
    def test_is_made_of_a_disagreement(self, admin: Client, model: RegisteredModel) -> None:
        pair = disputed(model)

        answer = admin.post(
            URL + "gold/",
            {"pair": pair.pk, "expected": pair.second_id, "why": "B is true."},
            follow=True,
        )

        gold = Gold.objects.get()
        assert (gold.original, gold.expected, gold.made_by.username) == (pair, pair.second, "ada")
        assert "It is a gold pair now" in answer.text
        assert "B is expected" in words(answer.text)
        assert "“B is true.”" in answer.text

    def test_is_made_on_a_pairs_own_page(self, admin: Client, model: RegisteredModel) -> None:
        pair = disputed(model)

        page = admin.get(f"/models/demo/pairs/{pair.pk}/").text

        assert 'action="/models/demo/quality/gold/"' in page
        fresh = pair_of(model)
        assert "quality/gold" not in admin.get(f"/models/demo/pairs/{fresh.pk}/").text

    @pytest.mark.parametrize(
        ("body", "status", "sentence"),
        [
            ({}, 422, "Choose a pair of this model."),
            ({"pair": "x", "expected": 1}, 422, "Choose a pair of this model."),
            ({"pair": 10**30, "expected": 1}, 422, "Choose a pair of this model."),
            ({"expected": ""}, 422, "Say which answer is the better one."),
            ({"expected": 0}, 422, "Say which answer is the better one."),
            ({"expected": 10**9}, 409, "Say which of the pair"),
        ],
    )
    def test_refuses_with_a_sentence(
        self,
        admin: Client,
        model: RegisteredModel,
        body: dict[str, object],
        status: int,
        sentence: str,
    ) -> None:
        pair = disputed(model)
        sent = ({"pair": pair.pk} if body and "pair" not in body else {}) | body

        answer = admin.post(URL + "gold/", sent)

        assert answer.status_code == status
        assert sentence in answer.text
        assert not Gold.objects.exists()

    def test_is_served_no_more_when_it_is_retired(
        self, admin: Client, model: RegisteredModel
    ) -> None:
        gold = factories.GoldFactory.create(model=model)

        answer = admin.post(f"{URL}gold/{gold.pk}/retire/", follow=True)

        gold.refresh_from_db()
        assert gold.retired_at is not None
        assert "not served" in answer.text

    def test_comes_back_from_the_login(self, admin: Client, model: RegisteredModel) -> None:
        assert admin.get(URL + "gold/").headers["Location"] == URL


class TestLeases:
    def test_are_listed_and_released(
        self, admin: Client, model: RegisteredModel, labeler: User
    ) -> None:
        leases = [
            factories.AssignmentFactory.create(
                pair=factories.QueueEntryFactory.create(pair=pair_of(model), leased=1).pair,
                labeler=labeler,
            )
            for _ in range(3)
        ]
        page = words(admin.get(URL).text)
        assert "Held pairs (3)" in page
        assert "<strong>lee</strong>" in page

        admin.post(f"{URL}leases/{leases[0].pk}/")

        assert Assignment.objects.filter(closed_at=None).count() == 2
        assert QueueEntry.objects.filter(leased=0).get().pair == leases[0].pair

        answer = admin.post(f"{URL}leases/of/{labeler.pk}/", follow=True)

        assert not Assignment.objects.filter(closed_at=None).exists()
        assert "2 pairs of lee are back." in answer.text

    def test_say_which_were_set_aside(
        self, admin: Client, model: RegisteredModel, labeler: User
    ) -> None:
        factories.AssignmentFactory.create(
            pair=pair_of(model), labeler=labeler, set_aside_at=timezone.now()
        )

        assert "set aside" in admin.get(URL).text


class TestFlags:
    def test_are_shown_and_resolved_with_a_sentence(
        self, admin: Client, model: RegisteredModel, labeler: User
    ) -> None:
        lease = factories.AssignmentFactory.create(pair=pair_of(model), labeler=labeler)
        flags.flag_set(assignment=lease, is_raised=True, note="Cut off.", now=timezone.now())
        flag = Flag.objects.get()
        assert "“Cut off.”" in admin.get(URL).text

        refused = admin.post(f"{URL}flags/{flag.pk}/", {"resolution": " "})
        assert refused.status_code == 409
        assert "Say in a sentence" in refused.text

        answer = admin.post(
            f"{URL}flags/{flag.pk}/", {"resolution": "It is longer now."}, follow=True
        )

        flag.refresh_from_db()
        assert (flag.resolution, flag.resolved_by.username) == ("It is longer now.", "ada")
        assert "No flag waits." in answer.text
        assert "It is longer now." in answer.text


class TestRest:
    def test_has_the_numbers_of_the_page(
        self, admin: Client, model: RegisteredModel, labeler: User
    ) -> None:
        pair = disputed(model)
        for _ in range(30):
            said(pair_of(model), "left", labeler)

        found = admin.get(API + "quality/").json()

        assert found["judgements"] == 32
        assert found["alpha_nominal"]["units"] == 1
        assert found["disagreements"] == [{"pair": pair.pk, "distance": 4, "judgements": 2}]
        lee = next(one for one in found["labelers"] if one["labeler"] == "lee")
        assert lee["left"]["n"] == 30
        assert found["verdicts"]["left"] == 30
        assert sum(day["judgements"] for day in found["days"]) == 32
        assert found["versions"] == [{"version": 0, "judgements": 32}]

    def test_says_why_a_number_is_missing(self, admin: Client, model: RegisteredModel) -> None:
        found = admin.get(API + "quality/", {"days": 7}).json()

        assert found["alpha_nominal"]["value"] is None
        assert found["alpha_nominal"]["why"]
        assert found["left"] is None

    @pytest.mark.parametrize("query", ["days=0", "days=x", "days=366", "day=7"])
    def test_refuses_what_it_does_not_know(
        self, admin: Client, model: RegisteredModel, query: str
    ) -> None:
        assert admin.get(f"{API}quality/?{query}").status_code == 400

    def test_makes_lists_and_retires_gold_pairs(
        self, admin: Client, model: RegisteredModel
    ) -> None:
        pair = disputed(model)
        body = {"pair": pair.pk, "expected": pair.first_id, "why": "A is true."}

        made = admin.post(API + "golds/", body, content_type="application/json")
        again = admin.post(API + "golds/", body, content_type="application/json")

        assert (made.status_code, again.status_code) == (201, 409)
        assert again.json()["code"] == "gold_known"
        assert made.json()["original"] == pair.pk
        assert admin.get(API + "golds/").json() == [made.json()]
        assert admin.delete(f"{API}golds/{made.json()['id']}/").status_code == 204
        assert admin.get(API + "golds/").json()[0]["retired_at"]

    def test_refuses_a_pair_of_another_model(self, admin: Client, model: RegisteredModel) -> None:
        pair = disputed(factories.RegisteredModelFactory.create())

        answer = admin.post(
            API + "golds/",
            {"pair": pair.pk, "expected": pair.first_id},
            content_type="application/json",
        )

        assert answer.status_code == 400
        assert admin.delete(API + "golds/99/").status_code == 404


class TestSettings:
    def test_shares_are_set_and_bounded(self, admin: Client, model: RegisteredModel) -> None:
        page = admin.get("/models/demo/settings/")
        card = next(card for card in page.context["cards"] if card.key == "judging")
        values = {line.field.name: line.field.value() for line in card.lines}
        sent = {"seen": card.seen, "do": "save"} | {
            name: value for name, value in values.items() if value is not False
        }

        refused = admin.post("/models/demo/settings/judging/", sent | {"gold_share": "21"})
        saved = admin.post(
            "/models/demo/settings/judging/", sent | {"gold_share": "5", "repeat_share": "0"}
        )

        assert refused.status_code == 422
        assert saved.status_code == 302
        policy = JudgingPolicy.objects.get(model=model)
        assert (policy.gold_share, policy.repeat_share) == (0.05, 0)
