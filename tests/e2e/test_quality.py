from __future__ import annotations

import pytest
from django.utils import timezone

from annotate.models import Assignment, Flag, Gold
from tests import factories

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def admin():
    return factories.UserFactory(username="ada", is_staff=True)


@pytest.fixture
def disputed(model):
    """A pair on which two people are sure of the opposite, and one of thirty who only goes left."""
    pair = factories.PairFactory(
        prompt__model=model,
        first__text="It *is* stable. " * 30,
        second__text="averyveryverylongwordthatbreaksnowhere" * 8,
    )
    for verdict in ("left_much", "right_much"):
        lease = factories.AssignmentFactory(pair=pair, closed_at=timezone.now())
        factories.JudgementFactory(assignment=lease, verdict=verdict, note="Because it is so.")
    steady = factories.UserFactory(username="a-labeler-with-a-very-long-name-indeed")
    for _ in range(30):
        lease = factories.AssignmentFactory(
            pair__prompt__model=model, labeler=steady, closed_at=timezone.now()
        )
        factories.JudgementFactory(assignment=lease, active_ms=12_000)
    return pair


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits(
    live_server, quiet_page, context, log_in, model, admin, disputed, width, scheme
):
    log_in(context, admin)
    factories.FlagFactory(assignment=disputed.assignments.first())
    factories.AssignmentFactory(pair=factories.PairFactory(prompt__model=model))
    quiet_page.set_viewport_size({"width": width, "height": 900})
    quiet_page.emulate_media(color_scheme=scheme)

    quiet_page.goto(f"{live_server.url}/models/{model.slug}/quality/")
    for fold in quiet_page.locator("summary").all():
        fold.click()

    root = "document.documentElement"
    assert quiet_page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


def test_staff_acts_on_what_it_sees(
    live_server, quiet_page, context, log_in, model, admin, disputed
):
    log_in(context, admin)
    factories.FlagFactory(assignment=disputed.assignments.first())
    factories.AssignmentFactory(pair=factories.PairFactory(prompt__model=model))
    quiet_page.goto(f"{live_server.url}/models/{model.slug}/quality/")

    quiet_page.get_by_text("Make it a gold pair", exact=False).first.click()
    quiet_page.get_by_label("Answer B").check()
    quiet_page.get_by_label("Why").fill("B says what is asked.")
    quiet_page.get_by_role("button", name="Make it a gold pair").click()
    quiet_page.get_by_text("B is expected").wait_for()
    quiet_page.get_by_label("What came of the flag").fill("Looked at.")
    quiet_page.get_by_role("button", name="Resolve").click()
    quiet_page.get_by_text("No flag waits.").wait_for()
    quiet_page.get_by_role("button", name="Release all").click()
    quiet_page.get_by_text("Nobody holds a pair just now.").wait_for()

    assert Gold.objects.get().expected == disputed.second
    assert Flag.objects.get().resolution == "Looked at."
    assert not Assignment.objects.filter(closed_at=None).exists()
