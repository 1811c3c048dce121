from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User

from annotate import flags
from annotate.models import Assignment, Flag
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def assignment() -> Assignment:
    return factories.AssignmentFactory.create()


@pytest.fixture
def admin() -> User:
    return factories.UserFactory.create(is_staff=True)


def raise_(assignment: Assignment, note: str = "") -> Flag:
    flags.flag_set(assignment=assignment, is_raised=True, note=note, now=NOW)
    return Flag.objects.filter(assignment=assignment).latest("pk")


def waits(assignment: Assignment) -> bool:
    """Whether staff sees a flag of this assignment among those to answer."""
    waiting = flags.flags_of(assignment.pair.prompt.model, is_open=True, limit=9)
    return assignment in [flag.assignment for flag in waiting]


class TestRaising:
    def test_is_done_once_however_often_it_is_asked(self, assignment: Assignment) -> None:
        assert not waits(assignment)

        raise_(assignment, "The prompt is cut off.")
        raise_(assignment)

        flag = Flag.objects.get()
        assert (flag.note, flag.raised_at) == ("The prompt is cut off.", NOW)
        assert flag.model == assignment.pair.prompt.model
        assert waits(assignment)

    def test_again_with_a_note_changes_the_note(self, assignment: Assignment) -> None:
        raise_(assignment, "Cut off.")
        raise_(assignment, "  Both are cut off. ")

        assert Flag.objects.get().note == "Both are cut off."

    def test_taken_back_it_is_gone_and_can_be_raised_anew(self, assignment: Assignment) -> None:
        raise_(assignment)
        for _ in range(2):
            flags.flag_set(assignment=assignment, is_raised=False, now=LATER)

        assert not waits(assignment)
        assert Flag.objects.get().taken_back_at == LATER
        raise_(assignment)
        assert waits(assignment)

    def test_takes_nothing_back_that_was_not_raised(self, assignment: Assignment) -> None:
        flags.flag_set(assignment=assignment, is_raised=False, now=NOW)

        assert not Flag.objects.exists()

    def test_cuts_a_note_that_nobody_reads_to_its_end(self, assignment: Assignment) -> None:
        assert len(raise_(assignment, "x" * 5000).note) == flags.MOST_NOTE


class TestResolving:
    def test_keeps_who_and_the_sentence(self, assignment: Assignment, admin: User) -> None:
        flag = raise_(assignment)

        flags.flag_resolve(flag=flag, resolution=" The prompt is repaired. ", by=admin, now=LATER)

        flag.refresh_from_db()
        assert (flag.resolution, flag.resolved_by) == ("The prompt is repaired.", admin)
        assert not waits(assignment)

    def test_asks_for_a_sentence(self, assignment: Assignment, admin: User) -> None:
        with pytest.raises(flags.ResolutionMissing):
            flags.flag_resolve(flag=raise_(assignment), resolution="  ", by=admin, now=LATER)

        assert waits(assignment)

    def test_twice_keeps_the_first_answer(self, assignment: Assignment, admin: User) -> None:
        flag = raise_(assignment)
        for said in ("First.", "Second."):
            flags.flag_resolve(flag=flag, resolution=said, by=admin, now=LATER)

        flag.refresh_from_db()
        assert flag.resolution == "First."

    def test_leaves_what_the_labeler_took_back(self, assignment: Assignment, admin: User) -> None:
        flag = raise_(assignment)
        flags.flag_set(assignment=assignment, is_raised=False, now=NOW)

        flags.flag_resolve(flag=flag, resolution="Too late.", by=admin, now=LATER)

        flag.refresh_from_db()
        assert flag.resolved_at is None


class TestListing:
    def test_shows_open_ones_and_resolved_ones_of_the_model(
        self, assignment: Assignment, admin: User
    ) -> None:
        model = assignment.pair.prompt.model
        resolved = raise_(assignment)
        flags.flag_resolve(flag=resolved, resolution="Done.", by=admin, now=LATER)
        waiting = raise_(factories.AssignmentFactory.create(pair__prompt__model=model))
        raise_(factories.AssignmentFactory.create())
        withdrawn = factories.AssignmentFactory.create(pair__prompt__model=model)
        raise_(withdrawn)
        flags.flag_set(assignment=withdrawn, is_raised=False, now=LATER)

        assert flags.flags_of(model, is_open=True, limit=9) == [waiting]
        assert flags.flags_of(model, is_open=False, limit=9) == [resolved]
