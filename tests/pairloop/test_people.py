from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotate import people as actions
from models_registry.models import Membership, PersonChange
from pairloop.pages import people_queries, people_views
from tests import factories

pytestmark = pytest.mark.django_db

NEW = {"username": "lea", "name": "", "email": "", "role": "labeler"}
PASSWORD = "nine lives of a cat"


@pytest.fixture
def model():
    return factories.RegisteredModelFactory()


@pytest.fixture
def ada():
    return factories.UserFactory(username="ada", is_staff=True)


@pytest.fixture
def admin(client, ada):
    client.force_login(ada)
    return client


@pytest.fixture
def labeler(model):
    return factories.MembershipFactory(model=model, user__username="noor").user


def page_of(model) -> str:
    return reverse("people", args=[model.slug])


def change_of(model, person, change: str) -> str:
    return reverse("person-change", args=[model.slug, person.pk, change])


class TestPeople:
    def test_does_not_exist_for_labelers(self, client, model, labeler):
        client.force_login(labeler)
        paths = [
            page_of(model),
            *(change_of(model, labeler, name) for name in people_views.CHANGES),
        ]

        for path in paths:
            assert client.get(path).status_code == 404
            assert client.post(path, NEW).status_code == 404

        assert not PersonChange.objects.exists()
        assert not User.objects.filter(is_staff=True).exists()

    def test_needs_a_login(self, client, model):
        assert client.get(page_of(model)).url.startswith(reverse("login"))

    def test_knows_no_foreign_model_person_or_change(self, admin, ada, model):
        for path in (
            "/models/nowhere/people/",
            f"/models/nowhere/people/{ada.pk}/link/",
            f"{page_of(model)}{ada.pk + 999}/link/",
            f"{page_of(model)}{ada.pk}/delete/",
        ):
            assert admin.post(path).status_code == 404

    def test_shows_members_admins_and_the_rest_apart(self, admin, ada, model, labeler):
        factories.UserFactory(username="stranger")

        page = admin.get(page_of(model))

        here = [person.user.username for person in page.context["people"].here]
        assert here == ["ada", "noor"]
        assert [person.user.username for person in page.context["people"].elsewhere] == ["stranger"]
        assert "Everybody else (1)" in page.text
        assert "None yet." in page.text

    def test_says_when_only_admins_judge(self, admin, model, labeler):
        assert "Only admins judge it so far" not in admin.get(page_of(model)).text

        admin.post(change_of(model, labeler, "remove"))

        assert "Only admins judge it so far" in admin.get(page_of(model)).text

    def test_shows_hostile_names_as_text(self, admin, model):
        factories.UserFactory(is_staff=True, first_name="<script>alert(1)</script>")

        assert "<script>alert" not in admin.get(page_of(model)).text

    def test_costs_the_same_number_of_queries_however_many_there_are(
        self, admin, model, django_assert_max_num_queries
    ):
        for _ in range(5):
            factories.PersonChangeFactory(made_by=factories.UserFactory())
            factories.MembershipFactory(model=model)

        with django_assert_max_num_queries(8):
            admin.get(page_of(model))

    def test_survives_a_login_before_the_button_took_effect(self, admin, model, labeler):
        assert admin.get(change_of(model, labeler, "deactivate")).url == page_of(model)
        assert User.objects.get(pk=labeler.pk).is_active


class TestWork:
    def test_counts_standing_judgements_of_this_model(self, model, labeler):
        now = timezone.now()
        for ms, days in ((4000, 0), (8000, 0), (30_000, 2), (0, 2)):
            factories.JudgementFactory(
                assignment__pair__prompt__model=model,
                assignment__labeler=labeler,
                active_ms=ms,
                judged_at=now - timedelta(days=days),
            )
        factories.JudgementFactory(assignment__labeler=labeler)
        taken_back = factories.JudgementFactory(
            assignment__pair__prompt__model=model, assignment__labeler=labeler
        )
        factories.JudgementFactory(
            assignment=taken_back.assignment, revision=2, verdict="", winner=None
        )

        found = people_queries.people_of(model=model, since=now - timedelta(days=1)).here

        assert [(row.user, row.today, row.in_all, row.median_s) for row in found] == [
            (labeler, 2, 4, 8.0)
        ]
        assert found[0].seen_at

    def test_knows_nothing_of_somebody_new(self, model, labeler):
        (row,) = people_queries.people_of(model=model, since=timezone.now()).here

        assert (row.today, row.in_all, row.median_s, row.seen_at) == (0, 0, None, None)


class TestAdd:
    def test_shows_the_link_once(self, admin, model):
        response = admin.post(page_of(model), NEW)
        assert response.status_code == 302

        first, second = admin.get(response.url).text, admin.get(response.url).text

        assert "http://testserver/account/link/" in first
        assert "/account/link/" not in second
        assert "lea</strong> may judge this model" in second

    def test_twice_makes_one_person_and_still_shows_the_link(self, admin, model):
        admin.post(page_of(model), NEW)
        again = admin.post(page_of(model), NEW)

        assert again.status_code == 409
        assert "Somebody has this username already" in again.text
        assert "/account/link/" in again.text
        assert User.objects.filter(username="lea").count() == 1

    def test_keeps_what_was_typed(self, admin, model):
        page = admin.post(
            page_of(model), NEW | {"username": "l e a", "name": "Lea L.", "role": "admin"}
        )

        assert page.status_code == 422
        assert 'value="l e a"' in page.text
        assert 'value="Lea L."' in page.text
        assert not User.objects.filter(username="l e a").exists()

    def test_takes_only_the_fields_that_it_shows(self, admin, model):
        # S14: mass assignment.
        other = factories.RegisteredModelFactory()

        admin.post(
            page_of(model),
            NEW | {"is_staff": "on", "is_superuser": "on", "is_admin": "on", "model": other.slug,
                   "is_active": "", "password": PASSWORD, "groups": "1", "by": "1"},
        )  # fmt: skip

        lea = User.objects.get(username="lea")
        assert (lea.is_staff, lea.is_superuser, lea.is_active) == (False, False, True)
        assert not lea.has_usable_password()
        assert [membership.model for membership in lea.memberships.all()] == [model]


class TestChange:
    def test_does_what_its_button_says(self, admin, model, labeler):
        other = factories.UserFactory()
        for person, change, says in (
            (other, "add", "may judge this model now"),
            (other, "remove", "judges this model no more"),
            (labeler, "deactivate", "cannot log in"),
            (labeler, "reactivate", "can log in again"),
            (labeler, "make-admin", "is an admin now"),
            (labeler, "make-labeler", "is a labeler now"),
            (labeler, "link", "/account/link/"),
        ):
            assert says in admin.post(change_of(model, person, change), follow=True).text

        assert Membership.objects.get(model=model).user == labeler
        made_by = set(PersonChange.objects.values_list("made_by__username", flat=True))
        assert made_by == {"ada"}
        assert PersonChange.objects.count() == 7

    @pytest.mark.parametrize("change", ["deactivate", "make-labeler"])
    def test_refuses_oneself(self, admin, ada, model, change):
        page = admin.post(change_of(model, ada, change))

        assert page.status_code == 409
        assert "Ask another admin" in page.text
        ada.refresh_from_db()
        assert (ada.is_active, ada.is_staff) == (True, True)

    def test_needs_a_token(self, ada, model, labeler):
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(ada)

        for path in (page_of(model), change_of(model, labeler, "deactivate")):
            assert strict.post(path, NEW).status_code == 403


class TestPasswordLink:
    def open(self, client, person) -> str:
        """Open a fresh link; return the address of the form behind it."""
        link = actions.link_make(person=person, by=None, now=timezone.now())
        response = client.get(reverse("person-link", args=[link.uid, link.token]))
        assert link.token not in response.url
        return response.url

    def send(self, client, path: str, password: str = PASSWORD):
        return client.post(
            path, {"new_password1": password, "new_password2": password}, follow=True
        )

    def test_sets_the_password_logs_in_and_ends_other_sessions(self, client, model, labeler):
        elsewhere = Client()
        elsewhere.force_login(labeler)

        page = self.send(client, self.open(client, labeler))

        assert "you are logged in" in page.text
        assert client.get(reverse("judge", args=[model.slug])).status_code == 200
        assert elsewhere.get("/").status_code == 302
        assert client.login(username="noor", password=PASSWORD)
        assert labeler.changes.order_by("pk").last().kind == PersonChange.Kind.PASSWORD_SET

    def test_works_once(self, client, labeler):
        path = self.open(client, labeler)
        self.send(client, path)

        again = self.send(Client(), path, "another password of mine")

        assert "This link does not work" in again.text
        assert client.login(username="noor", password=PASSWORD)

    def test_says_what_is_wrong_with_a_password(self, client, labeler):
        page = self.send(client, self.open(client, labeler), "noor")

        assert "too short" in page.text
        assert not client.login(username="noor", password="noor")

    def test_of_the_deactivated_does_not_work(self, client, labeler, ada):
        path = self.open(client, labeler)
        actions.person_deactivate(person=labeler, by=ada, now=timezone.now())

        assert "This link does not work" in self.send(client, path).text

    @pytest.mark.parametrize("rest", ["MQ/abc-def/", "%00/x/", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5/x-y/"])
    def test_that_is_nonsense_says_so(self, client, rest):
        assert "This link does not work" in client.get(f"/account/link/{rest}").text

    def test_gives_no_rights(self, client, labeler):
        # S14: mass assignment.
        path = self.open(client, labeler)
        client.post(
            path,
            {"new_password1": PASSWORD, "new_password2": PASSWORD, "is_staff": "on",
             "is_superuser": "on", "username": "root", "user": "1"},
        )  # fmt: skip

        labeler.refresh_from_db()
        assert (labeler.username, labeler.is_staff, labeler.is_superuser) == ("noor", False, False)


class TestPassword:
    def send(self, client, old: str, **more: str):
        new = {"new_password1": PASSWORD, "new_password2": PASSWORD}
        return client.post(
            reverse("password_change"), {"old_password": old} | new | more, follow=True
        )

    def test_is_changed_by_its_owner(self, client, labeler):
        client.force_login(labeler)
        elsewhere = Client()
        elsewhere.force_login(labeler)

        page = self.send(client, factories.PASSWORD, is_staff="on")

        assert "Your password is changed" in page.text
        assert elsewhere.get("/").status_code == 302
        labeler.refresh_from_db()
        assert (labeler.check_password(PASSWORD), labeler.is_staff) == (True, False)

    def test_needs_the_old_one(self, client, labeler):
        client.force_login(labeler)

        assert "incorrect" in self.send(client, "wrong").text
        labeler.refresh_from_db()
        assert labeler.check_password(factories.PASSWORD)

    def test_needs_a_login(self, client):
        assert client.get(reverse("password_change")).status_code == 302
