from __future__ import annotations

import re
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from annotate import actions, guidelines, judging, migrations
from annotate.models import Guidelines, Judgement, JudgingPolicy
from pairloop.lib import edits
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def model():
    return factories.RegisteredModelFactory()


@pytest.fixture
def admin():
    return factories.UserFactory(username="ada", is_staff=True)


def write(model, text, *, by=None) -> None:
    """Change the guidelines as the settings page does."""
    policy, _ = JudgingPolicy.objects.get_or_create(model=model)
    seen = edits.fingerprint(policy, ["guidelines"])
    actions.policy_change(model=model, values={"guidelines": text}, seen=seen, by=by)


def shown_to(client, model, user, **query) -> str:
    client.force_login(user)
    answer = client.get(f"/models/{model.slug}/guidelines/", query)
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.text.partition("<main")[2])


class TestWriting:
    def test_keeps_every_text_with_its_number(self, model, admin):
        write(model, "Be kind.", by=admin)
        write(model, "Be kind and brief.", by=admin)

        kept = Guidelines.objects.filter(model=model).order_by("version")

        assert [(one.version, one.text, one.created_by) for one in kept] == [
            (1, "Prefer the answer that helps more.", None),
            (2, "Be kind.", admin),
            (3, "Be kind and brief.", admin),
        ]
        assert JudgingPolicy.objects.get(model=model).guidelines_version == 3

    def test_keeps_nothing_for_the_same_text(self, model):
        write(model, "Be kind.")
        write(model, "  Be kind.\r\n")

        assert Guidelines.objects.filter(model=model).count() == 2

    def test_keeps_nothing_for_another_setting(self, model):
        policy = JudgingPolicy.objects.get(model=model)
        values = {"samples": 5, "guidelines": policy.guidelines}
        actions.policy_change(model=model, values=values, seen=edits.fingerprint(policy, values))

        policy.refresh_from_db()
        assert (policy.samples, policy.guidelines_version) == (5, 1)
        assert not Guidelines.objects.exists()

    def test_begins_with_an_empty_one_where_no_policy_was(self, model):
        JudgingPolicy.objects.all().delete()
        write(model, "Be kind.")

        assert list(Guidelines.objects.order_by("version").values_list("version", "text")) == [
            (1, ""),
            (2, "Be kind."),
        ]

    def test_is_by_whoever_saves_the_settings(self, client, model, admin):
        client.force_login(admin)
        settings = client.get(f"/models/{model.slug}/settings/").text
        seen = re.search(r'guidelines/".*?name="seen" value="(\w+)"', settings, re.DOTALL)[1]

        client.post(
            f"/models/{model.slug}/settings/guidelines/",
            {"guidelines": "Be kind.", "seen": seen, "do": "save"},
        )

        assert Guidelines.objects.get(version=2).created_by == admin

    @pytest.mark.parametrize("change", ["UPDATE annotate_guidelines SET text = 'x'", "DELETE FROM annotate_guidelines"])  # fmt: skip
    def test_is_only_ever_added_to(self, model, change):
        write(model, "Be kind.")

        with (
            pytest.raises(DatabaseError, match="append-only"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(change)


class TestMigration:
    def test_keeps_what_stood_before_there_were_versions(self, model):
        later = factories.RegisteredModelFactory()
        JudgingPolicy.objects.filter(model=later).update(
            guidelines="Be kind.", guidelines_version=4
        )

        # Whatever its number is.
        path = next(Path(migrations.__path__[0]).glob("*_history.py"))

        with connection.cursor() as cursor:
            cursor.execute(import_module(f"annotate.migrations.{path.stem}").KEEP)

        first, fourth = Guidelines.objects.order_by("version")
        assert (first.model, first.version, first.created_at) == (model, 1, model.created_at)
        assert first.text == "Prefer the answer that helps more."
        assert (fourth.model, fourth.version, fourth.text) == (later, 4, "Be kind.")
        assert fourth.created_at == later.judging_policy.updated_at


class TestStored:
    @pytest.fixture
    def judge(self, model):
        labeler = factories.MembershipFactory(model=model).user

        def say(*, shown_at=None, lease=None, **others) -> int:
            lease = lease or factories.AssignmentFactory(pair__prompt__model=model, labeler=labeler)
            recorded = judging.judgement_record(
                assignment=lease, verdict="left", now=timezone.now(), shown_at=shown_at, **others
            )
            return recorded.judgement.guidelines_version

        return say

    def test_with_a_judgement_is_what_stood_then(self, model, judge):
        first = judge()
        write(model, "Be kind.")

        assert (first, judge()) == (1, 2)
        assert sorted(Judgement.objects.values_list("guidelines_version", flat=True)) == [1, 2]

    def test_is_what_stood_when_the_pair_was_shown(self, model, judge):
        before = timezone.now()
        write(model, "Be kind.")
        between = timezone.now()
        write(model, "Be brief.")

        assert judge(shown_at=before) == 1
        assert judge(shown_at=between) == 2
        assert judge(shown_at=timezone.now()) == 3
        # By a clock that is wrong, before there was any.
        assert judge(shown_at=before - timedelta(days=9)) == 3

    def test_of_a_change_is_what_stood_when_it_was_made(self, model, judge):
        lease = factories.AssignmentFactory(pair__prompt__model=model)
        judge(lease=lease)
        write(model, "Be kind.")

        assert judge(lease=lease, revise=True, note="Now I see.") == 2
        assert list(
            lease.judgements.values_list("guidelines_version", flat=True).order_by("pk")
        ) == [1, 2]

    def test_costs_a_query_only_while_somebody_changed_them(self, model, django_assert_num_queries):
        policy = JudgingPolicy.objects.get(model=model)

        with django_assert_num_queries(0):
            found = guidelines.version_shown(
                model.pk, present=1, changed_at=policy.updated_at, shown_at=timezone.now()
            )
        assert found == 1

    def test_is_the_number_that_the_rest_api_shows(self, client, model):
        write(model, "Be kind.")
        factories.QueueEntryFactory(pair__prompt__model=model)
        client.force_login(factories.MembershipFactory(model=model).user)

        pair = client.post(f"/api/v1/models/{model.slug}/assignments/").json()
        client.post(
            f"/api/v1/assignments/{pair['id']}/judgement/", {"verdict": "left"}, "application/json"
        )

        assert pair["guidelines_version"] == Judgement.objects.get().guidelines_version == 2


class TestPage:
    def test_shows_all_with_date_count_and_change(self, client, model, admin):
        write(model, "Prefer the answer that is kind.", by=admin)
        for version in (1, 2, 2):
            factories.JudgementFactory(
                assignment__pair__prompt__model=model, guidelines_version=version
            )
        factories.JudgementFactory(guidelines_version=2)

        shown = shown_to(client, model, admin)

        newest, oldest = shown.split('id="edition-1"')
        assert "in force" in newest
        assert "by ada · 2 judgements" in newest
        assert "1 judgement<" in oldest
        assert "answer that <del>helps more.</del>" in newest
        assert "answer that <ins>is kind.</ins>" in newest
        assert "What changed" not in oldest
        assert "Write the next version" in shown

    def test_shows_labelers_the_texts_and_nobodys_work(self, client, model, admin):
        write(model, "Be **kind**.", by=admin)
        labeler = factories.MembershipFactory(model=model).user
        factories.JudgementFactory(assignment__pair__prompt__model=model)

        shown = shown_to(client, model, labeler)

        assert "Be <strong>kind</strong>." in shown
        assert "Prefer the answer that helps more." in shown
        assert "ada" not in shown
        assert "judgement<" not in shown
        assert "Write the next" not in shown

    def test_shows_what_came_with_the_model(self, client, model, admin):
        shown = shown_to(client, model, admin)

        assert "Number 1" in shown
        assert "Prefer the answer that helps more." in shown
        assert "not kept" not in shown

    def test_says_when_earlier_ones_are_gone(self, client, model, admin):
        JudgingPolicy.objects.filter(model=model).update(guidelines_version=4, guidelines="")

        shown = shown_to(client, model, admin)

        assert "Number 4" in shown
        assert "go by their taste" in shown
        assert "before this one are not kept" in shown

    def test_goes_in_pages(self, client, model, admin):
        for number in range(11):
            write(model, f"Text {number}.")

        first, second = shown_to(client, model, admin), shown_to(client, model, admin, page=2)

        assert "Text 10." in first
        assert 'rel="next"' in first
        # The oldest of the first page knows what it changed, too.
        assert first.count("What changed since") == 10
        assert "Prefer the answer" in second

    def test_escapes_what_somebody_wrote(self, client, model, admin):
        write(model, "<script>a</script>")
        write(model, "<script>b</script>")

        assert "<script>" not in shown_to(client, model, admin)

    def test_costs_the_same_for_many(self, client, model, admin, django_assert_max_num_queries):
        for number in range(9):
            write(model, f"Text {number}.", by=admin)
        client.force_login(admin)

        with django_assert_max_num_queries(7):
            client.get(f"/models/{model.slug}/guidelines/")

    def test_is_not_found_for_strangers(self, client, model):
        client.force_login(factories.MembershipFactory().user)

        assert client.get(f"/models/{model.slug}/guidelines/").status_code == 404

    def test_is_linked_from_the_settings(self, client, model, admin):
        client.force_login(admin)

        assert (
            f'href="/models/{model.slug}/guidelines/"'
            in client.get(f"/models/{model.slug}/settings/").text
        )
