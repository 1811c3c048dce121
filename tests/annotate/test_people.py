from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from annotate import judging, people
from annotate.models import Judgement, QueueEntry
from models_registry.models import Membership, PersonChange
from pairloop.lib.errors import Refused
from tests import factories

pytestmark = pytest.mark.django_db

Kind = PersonChange.Kind


@pytest.fixture
def model():
    return factories.RegisteredModelFactory()


@pytest.fixture
def admin():
    return factories.UserFactory(username="ada", is_staff=True)


def add(**fields) -> User:
    return people.person_add(
        **{"username": "lea", "model": None, "by": None, "now": timezone.now()} | fields
    )


def kinds(person: User) -> list[str]:
    return list(person.changes.order_by("pk").values_list("kind", flat=True))


def leased(model, labeler) -> QueueEntry:
    """Give a labeler a pair of the model; return its queue entry."""
    factories.QueueEntryFactory(pair__prompt__model=model)
    assignment = judging.pair_assign(model_id=model.pk, labeler=labeler, now=timezone.now())
    entry = QueueEntry.objects.get(pair=assignment.pair_id)
    assert entry.leased == 1
    return entry


class TestPersonAdd:
    def test_makes_a_labeler_of_the_model_without_a_password(self, model, admin):
        lea = add(model=model, by=admin, name="Lea L.", email="lea@example.org")

        assert (lea.is_staff, lea.is_superuser, lea.has_usable_password()) == (False, False, False)
        assert [group.name for group in lea.groups.all()] == [people.LABELERS]
        assert Membership.objects.get(user=lea).model == model
        assert kinds(lea) == [Kind.ADDED, Kind.MEMBER_ADDED]
        assert {change.made_by for change in lea.changes.all()} == {admin}

    def test_makes_an_admin_of_everything(self, model):
        lea = add(is_admin=True, model=model)

        assert (lea.is_staff, lea.is_superuser) == (True, False)
        assert not Membership.objects.exists()
        assert kinds(lea) == [Kind.ADDED, Kind.ADMIN_GIVEN]

    def test_refuses_a_name_that_somebody_has_in_whatever_case(self):
        add()

        with pytest.raises(people.PersonExists):
            add(username="Lea")

    @pytest.mark.parametrize("fields", [{"username": "l e a"}, {"username": ""}, {"email": "x"}])
    def test_refuses_what_is_no_name(self, fields):
        with pytest.raises(people.PersonInvalid):
            add(**fields)

        assert not User.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_adds_one_of_two_at_once(self):
        def attempt(_) -> str:
            try:
                add()
            except Refused as refused:
                return refused.code
            finally:
                connection.close()
            return "added"

        with ThreadPoolExecutor(2) as pool:
            said = sorted(pool.map(attempt, range(2)))

        assert said == ["added", "person_exists"]


class TestLinkMake:
    def works(self, person: User, link: people.Link) -> bool:
        return people.LINKS.check_token(User.objects.get(pk=person.pk), link.token)

    def make(self, person: User) -> people.Link:
        return people.link_make(person=person, by=None, now=timezone.now())

    def test_works_until_the_password_is_set(self):
        lea = add()
        link = self.make(lea)
        assert self.works(lea, link)

        lea.set_password("another battery")
        lea.save()

        assert not self.works(lea, link)
        assert kinds(lea) == [Kind.ADDED, Kind.LINK_MADE]

    def test_works_for_three_days(self, monkeypatch):
        lea = add()
        link = self.make(lea)
        now = people.LINKS._now()

        for days, is_good in ((2.99, True), (3.01, False)):
            monkeypatch.setattr(people.LINKS, "_now", lambda days=days: now + timedelta(days=days))
            assert self.works(lea, link) is is_good

    def test_ends_the_one_before(self):
        lea = add()
        first, second = self.make(lea), self.make(lea)

        assert (self.works(lea, first), self.works(lea, second)) == (False, True)

    def test_does_not_outlive_being_deactivated(self, admin):
        lea = add()
        link = self.make(lea)

        people.person_deactivate(person=lea, by=admin, now=timezone.now())
        with pytest.raises(people.PersonInactive):
            self.make(lea)
        people.person_reactivate(person=lea, by=admin, now=timezone.now())

        assert not self.works(lea, link)


class TestMember:
    def test_is_added_once(self, model, admin):
        lea = add()

        for _ in range(2):
            people.member_add(model=model, person=lea, by=admin, now=timezone.now())

        assert Membership.objects.get().user == lea
        assert kinds(lea) == [Kind.ADDED, Kind.MEMBER_ADDED]

    def test_that_is_removed_frees_what_it_held_of_this_model_only(self, model, admin):
        lea = add(model=model)
        other = factories.MembershipFactory(user=lea).model
        here, there = leased(model, lea), leased(other, lea)

        for _ in range(2):
            people.member_remove(model=model, person=lea, by=admin, now=timezone.now())

        here.refresh_from_db()
        there.refresh_from_db()
        assert (here.leased, here.wanted, there.leased) == (0, 1, 1)
        assert kinds(lea)[2:] == [Kind.MEMBER_REMOVED]
        assert [membership.model for membership in lea.memberships.all()] == [other]

    def test_that_is_removed_leaves_its_judgements(self, model, admin):
        lea = add(model=model)
        leased(model, lea)
        held = lea.assignments.get()
        judging.judgement_record(assignment=held, verdict="left", now=timezone.now())

        people.member_remove(model=model, person=lea, by=admin, now=timezone.now())

        assert Judgement.objects.get().verdict == "left"

    def test_pair_goes_to_somebody_else_at_once(self, model, admin):
        lea, noor = add(model=model), factories.MembershipFactory(model=model).user
        entry = leased(model, lea)

        people.member_remove(model=model, person=lea, by=admin, now=timezone.now())

        assignment = judging.pair_assign(model_id=model.pk, labeler=noor, now=timezone.now())
        assert assignment.pair_id == entry.pk

    def test_that_is_an_admin_goes_on_with_its_pair(self, model, admin):
        people.member_add(model=model, person=admin, by=None, now=timezone.now())
        entry = leased(model, admin)

        people.member_remove(model=model, person=admin, by=None, now=timezone.now())

        entry.refresh_from_db()
        assert entry.leased == 1


class TestPersonDeactivate:
    def test_ends_sessions_and_leases_at_once_and_for_good(self, model, admin, client):
        lea = add(model=model)
        entry = leased(model, lea)
        client.force_login(lea)
        assert client.get(f"/models/{model.slug}/judge/").status_code == 200

        people.person_deactivate(person=lea, by=admin, now=timezone.now())

        entry.refresh_from_db()
        assert entry.leased == 0
        assert client.get(f"/models/{model.slug}/judge/").status_code == 302
        people.person_reactivate(person=lea, by=admin, now=timezone.now())
        assert client.get(f"/models/{model.slug}/judge/").status_code == 302

    def test_leaves_the_sessions_of_others(self, admin, client):
        client.force_login(admin)

        people.person_deactivate(person=add(), by=admin, now=timezone.now())

        assert client.get("/").status_code == 200

    def test_keeps_membership_and_judgements_and_can_be_undone(self, model, admin):
        lea = add(model=model)
        for change in (people.person_deactivate, people.person_reactivate):
            for _ in range(2):
                change(person=lea, by=admin, now=timezone.now())

        assert User.objects.get(pk=lea.pk).is_active
        assert lea.memberships.exists()
        assert kinds(lea)[2:] == [Kind.DEACTIVATED, Kind.REACTIVATED]

    def test_refuses_oneself_and_the_last_admin(self, admin):
        factories.UserFactory(is_staff=True, is_active=False)

        with pytest.raises(people.IsOneself):
            people.person_deactivate(person=admin, by=admin, now=timezone.now())
        with pytest.raises(people.IsLastAdmin):
            people.person_deactivate(person=admin, by=None, now=timezone.now())

        assert User.objects.get(pk=admin.pk).is_active

    @pytest.mark.django_db(transaction=True)
    def test_leaves_one_of_two_admins_who_end_each_other(self):
        one, other = factories.UserFactory.create_batch(2, is_staff=True)

        def attempt(pair) -> str:
            try:
                people.person_deactivate(person=pair[0], by=pair[1], now=timezone.now())
            except Refused as refused:
                return refused.code
            finally:
                connection.close()
            return "done"

        with ThreadPoolExecutor(2) as pool:
            said = sorted(pool.map(attempt, [(one, other), (other, one)]))

        assert said == ["done", "is_last_admin"]
        assert User.objects.filter(is_active=True).count() == 1


class TestAdmin:
    def test_is_given_and_taken_once(self, model, admin):
        lea = add(model=model)

        for change, is_staff in ((people.admin_give, True), (people.admin_take, False)):
            for _ in range(2):
                change(person=lea, by=admin, now=timezone.now())
            assert User.objects.get(pk=lea.pk).is_staff is is_staff
            assert lea.groups.exists() is not is_staff

        assert kinds(lea)[2:] == [Kind.ADMIN_GIVEN, Kind.ADMIN_TAKEN]

    def test_taken_from_a_superuser_leaves_nothing(self, admin):
        boss = factories.UserFactory(is_staff=True, is_superuser=True)

        people.admin_take(person=boss, by=admin, now=timezone.now())

        boss.refresh_from_db()
        assert (boss.is_staff, boss.is_superuser) == (False, False)

    def test_taken_frees_what_was_held(self, model, admin):
        noor = factories.UserFactory(is_staff=True)
        entry = leased(model, noor)

        people.admin_take(person=noor, by=admin, now=timezone.now())

        entry.refresh_from_db()
        assert entry.leased == 0

    def test_refuses_oneself_the_last_one_and_the_deactivated(self, admin):
        away = factories.UserFactory(is_active=False)

        with pytest.raises(people.IsOneself):
            people.admin_take(person=admin, by=admin, now=timezone.now())
        with pytest.raises(people.IsLastAdmin):
            people.admin_take(person=admin, by=None, now=timezone.now())
        with pytest.raises(people.PersonInactive):
            people.admin_give(person=away, by=admin, now=timezone.now())


class TestCommands:
    @pytest.fixture(autouse=True)
    def status(self, settings, tmp_path):
        settings.STATUS_FILE = tmp_path / "status.json"

        def told(state):
            status = {"address": "http://127.0.0.1:8123", "components": {"web": {"state": state}}}
            settings.STATUS_FILE.write_text(json.dumps(status))

        return told

    def link(self, said: str) -> str:
        return said.split("http://127.0.0.1:8000")[1].split(maxsplit=1)[0]

    @pytest.mark.parametrize("state", ["running", "ready"])
    def test_print_the_address_that_is_served(self, model, capsys, status, state):
        status(state)

        call_command("person_add", "lea", "--model", model.slug)
        call_command("person_reset", "lea")

        said = capsys.readouterr().out
        assert said.count("http://127.0.0.1:8123/") == 2
        assert "PAIRLOOP_BIND" not in said

    def test_say_so_when_the_address_is_only_the_configured_one(self, capsys, status):
        factories.UserFactory(username="lea")
        status("stopped")

        call_command("person_reset", "lea")

        said = capsys.readouterr().out
        assert "http://127.0.0.1:8000/" in said
        assert "Pairloop does not run on this state folder" in said

    def test_add_a_labeler_and_print_a_link_that_works(self, model, capsys, client):
        call_command("person_add", "lea", "--model", model.slug)

        page = client.get(self.link(capsys.readouterr().out), follow=True)
        assert "Set a password" in page.text
        lea = User.objects.get()
        assert (lea.is_staff, lea.memberships.get().model) == (False, model)

    def test_add_an_admin(self, capsys):
        call_command("person_add", "ada", "--admin")

        assert User.objects.get().is_staff
        assert "within 3 days" in capsys.readouterr().out

    @pytest.mark.parametrize("is_admin", [False, True])
    def test_reset_prints_a_link_too(self, capsys, client, is_admin):
        factories.UserFactory(username="lea", is_staff=is_admin, is_superuser=is_admin)

        call_command("person_reset", "lea")

        page = client.get(self.link(capsys.readouterr().out), follow=True)
        assert "Set a password" in page.text

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            (("person_add", "lea"), "somebody has this"),
            (("person_add", "noor", "--model", "nowhere"), "No model is registered"),
            (("person_reset", "nobody"), "Nobody is called"),
            (("person_reset", "away"), "Reactivate them"),
        ],
    )
    def test_refuse_in_a_sentence(self, command, says):
        factories.UserFactory(username="lea")
        factories.UserFactory(username="away", is_active=False)

        with pytest.raises(CommandError, match=f"(?i){says}"):
            call_command(*command)
