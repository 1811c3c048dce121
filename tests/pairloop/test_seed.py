from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import transaction

from annotate import people
from annotate import queries as annotate
from annotate.models import JudgingPolicy, Prompt
from models_registry import queries as registry
from models_registry.models import Membership, RegisteredModel
from pairloop.up import seed
from tests import factories

pytestmark = pytest.mark.django_db


def password_in(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if line.startswith(f"Log in as {name} ")]
    return line.split("password ")[1].split()[0]


class TestSeed:
    def test_says_passwords_that_let_people_in(self) -> None:
        lines = seed.seed()

        admin = authenticate(username="admin", password=password_in(lines, "admin"))
        labeler = authenticate(username="labeler", password=password_in(lines, "labeler"))
        assert isinstance(admin, User)
        assert isinstance(labeler, User)
        assert (admin.is_staff, admin.is_superuser) == (True, True)
        assert (labeler.is_staff, labeler.is_superuser) == (False, False)

    def test_says_passwords_once_and_how_to_reset_them_always(self) -> None:
        first, second = seed.seed(), seed.seed()

        assert sum("password " in line for line in first) >= 2
        assert second == [seed.RESET]
        assert seed.RESET in first

    def test_says_a_command_that_resets_the_admins_password(self, capsys: Any) -> None:
        seed.seed()
        command = seed.RESET.split("manage.py ")[1].split()[:2]

        call_command(*command)

        assert command == ["person_reset", "admin"]
        assert "admin sets a password here" in capsys.readouterr().out

    def test_draws_other_passwords_each_time(self) -> None:
        before = transaction.savepoint()
        one = password_in(seed.seed(), "admin")
        transaction.savepoint_rollback(before)

        assert password_in(seed.seed(), "admin") != one

    def test_changes_nothing_the_second_time(self) -> None:
        seed.seed()
        kinds = (User, Group, RegisteredModel, JudgingPolicy, Prompt, Membership)
        before = [list(kind.objects.order_by("pk").values()) for kind in kinds]

        seed.seed()

        assert [list(kind.objects.order_by("pk").values()) for kind in kinds] == before

    def test_makes_the_labeler_a_member_of_group_and_model_and_the_admin_of_neither(self) -> None:
        seed.seed()

        assert Group.objects.get().name == people.LABELERS
        assert [user.username for user in Group.objects.get().user_set.all()] == ["labeler"]
        assert [member.user.username for member in Membership.objects.all()] == ["labeler"]
        labeler = User.objects.get(username="labeler")
        assert registry.model_of(user=labeler, slug="demo").name == "SmolLM2-135M-Instruct"

    def test_announces_the_demo_and_imports_its_prompts(self) -> None:
        lines = seed.seed()

        model = RegisteredModel.objects.get()
        starters = seed.starter_prompts()
        assert (model.slug, model.base_source, model.state) == ("demo", "demo", "preparing")
        # None twice, none refused.
        assert Prompt.objects.filter(model=model).count() == len(starters)
        assert f"{len(starters)} starter prompts for SmolLM2-135M-Instruct" in lines

    def test_holds_at_least_a_fifth_of_its_prompts_out(self) -> None:
        seed.seed()

        counts = annotate.prompt_counts(RegisteredModel.objects.get())
        assert counts["holdout"] >= 0.15 * (counts["holdout"] + counts["train"])
        assert counts["train"] > counts["holdout"]

    def test_gives_the_demo_guidelines(self) -> None:
        seed.seed()

        policy = JudgingPolicy.objects.get()
        policy.full_clean()
        assert policy.guidelines == seed.GUIDELINES
        assert policy.temperature == seed.DEMO_TEMPERATURE

    def test_never_makes_people_where_there_are_some(self) -> None:
        factories.UserFactory.create(username="root", is_staff=True, is_superuser=True)

        lines = seed.seed()

        assert [user.username for user in User.objects.all()] == ["root"]
        assert not any("password " in line for line in lines if line != seed.RESET)

    @pytest.mark.parametrize("gone", ["labeler", "admin"])
    def test_leaves_the_deactivated_out(self, gone: str) -> None:
        seed.seed()
        User.objects.filter(username=gone).update(is_active=False)

        seed.seed()

        assert not User.objects.get(username=gone).is_active
        assert User.objects.count() == 2

    def test_leaves_a_renamed_admin_the_only_one(self) -> None:
        seed.seed()
        User.objects.filter(username="admin").update(username="ada")

        seed.seed()

        assert [user.username for user in User.objects.filter(is_superuser=True)] == ["ada"]

    def test_leaves_a_member_who_was_taken_off_off(self) -> None:
        seed.seed()
        Membership.objects.all().delete()

        seed.seed()

        assert not Membership.objects.exists()

    def test_leaves_changed_settings_as_they_are(self) -> None:
        seed.seed()
        JudgingPolicy.objects.update(guidelines="Ours.", temperature=1.3)

        seed.seed()

        policy = JudgingPolicy.objects.get()
        assert (policy.guidelines, policy.temperature) == ("Ours.", 1.3)

    def test_announces_no_demo_beside_another_model(self) -> None:
        model = factories.RegisteredModelFactory.create()

        seed.seed()

        assert list(RegisteredModel.objects.all()) == [model]
        assert not Prompt.objects.exists()
