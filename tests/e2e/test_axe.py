"""axe-core finds nothing on the pages about judgements, with everything open that opens."""

from __future__ import annotations

from functools import partial

import pytest
from django.utils import timezone

from annotate.models import Judgement
from tests import factories
from tests.e2e import axe
from training.models import Round

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def violations(quiet_page, complaints):
    """Return what axe finds on a page."""
    return partial(axe.violations, quiet_page, complaints)


@pytest.fixture
def admin():
    """Somebody of the staff."""
    return factories.UserFactory(is_staff=True)


def judged(model, labeler, verdict="left", **said):
    """Have a pair judged of which prompt and answers have everything that Markdown has."""
    number = Judgement.objects.count()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"{axe.RICH}\n\nQuestion {number}?"},
    ]
    texts = {"first__text": axe.RICH, "second__text": axe.RICH}
    pair = factories.PairFactory(prompt__model=model, prompt__messages=messages, **texts)
    return judged_too(pair, labeler, verdict, **said)


def judged_too(pair, labeler, verdict, **said):
    """Have somebody judge a pair."""
    lease = factories.AssignmentFactory(labeler=labeler, pair=pair, closed_at=timezone.now())
    return factories.JudgementFactory(assignment=lease, verdict=verdict, **said)


def trained_on(judgement):
    """Put a judgement into a round that made a version."""
    pair = judgement.assignment.pair
    item = factories.SnapshotItemFactory(pair=pair, judgement_ids=[judgement.pk], is_consumed=True)
    model = pair.prompt.model
    base = model.versions.get(number=0)
    version = factories.ModelVersionFactory(model=model, number=1, kind="adapter", parent=base)
    factories.RoundFactory(
        model=model, state=Round.State.SUCCEEDED, snapshot=item.snapshot, version=version
    )


def resolved_by(user):
    """Return what staff says to a flag."""
    return {"resolution": "It is mended.", "resolved_by": user, "resolved_at": timezone.now()}


def open_folds(page, quiet):
    """Open whatever is folded, and wait for what comes with it."""
    for fold in page.locator("main summary").all():
        fold.click()
    quiet()


@axe.looks
class TestAxe:
    @pytest.fixture(autouse=True)
    def looks(self, quiet_page, scheme, size):
        """Set colours and size."""
        axe.look(quiet_page, scheme, size)

    @pytest.fixture
    def visit(self, quiet_page, context, log_in, live_server, model, quiet):
        """Open a page of the model as somebody, and what is folded on it."""

        def visited(user, path):
            log_in(context, user)
            quiet_page.goto(f"{live_server.url}/models/{model.slug}/{path}")
            open_folds(quiet_page, quiet)

        return visited

    def test_finds_nothing_on_the_history(self, visit, violations, model, labeler, admin):
        trained_on(judged(model, labeler, "left_much", note="Because.", active_ms=12_000))
        flagged = judged(model, labeler, reasons=["correct", "clear"])
        factories.FlagFactory(assignment=flagged.assignment, **resolved_by(admin))
        judged(model, labeler, "both_bad")

        visit(labeler, "history/")

        assert violations() == []
        visit(labeler, f"history/{flagged.assignment_id}/")
        assert violations() == []
        visit(labeler, "history/?verdict=tie")
        assert violations() == []

    def test_finds_nothing_on_the_history_of_staff(self, visit, violations, model, admin):
        trained_on(judged(model, admin))

        visit(admin, "history/")

        assert violations() == []

    def test_finds_nothing_on_the_guidelines(self, visit, violations, model, labeler, admin):
        for version, text in ((1, axe.RICH), (2, f"{axe.RICH}\n\nBe kind.")):
            factories.GuidelinesFactory(model=model, version=version, text=text)
        model.judging_policy.guidelines_version = 2
        model.judging_policy.save()

        for user in (labeler, admin):
            visit(user, "guidelines/")
            assert violations() == []

    def test_finds_nothing_on_the_quality_page(self, visit, violations, model, labeler, admin):
        visit(admin, "quality/")
        assert violations() == []
        for verdict in ["left", "left_much", "tie", "both_bad"] * 8:
            said = judged(model, labeler, verdict, active_ms=9_000)
        pair, other = said.assignment.pair, factories.UserFactory()
        other = judged_too(pair, other, "right_much", note="It lies.", reasons=["correct"])
        factories.FlagFactory(assignment=other.assignment)
        factories.FlagFactory(assignment=said.assignment, **resolved_by(admin))
        factories.AssignmentFactory(pair=factories.PairFactory(prompt__model=model))
        factories.GoldFactory(model=model, why="So it is.")
        factories.GoldFactory(model=model, retired_at=timezone.now())

        visit(admin, "quality/?days=7")

        assert violations() == []
