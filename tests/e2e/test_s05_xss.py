"""S05 in a real browser: hostile text on every page, and nothing of it runs."""

from __future__ import annotations

import pytest
from django.test import Client

from annotate.models import Assignment
from tests.factories import MembershipFactory, UserFactory
from tests.security import conftest
from tests.security.crawl import addresses
from tests.security.hostile import PAYLOADS
from tests.security.test_s05_xss import groups, hostile

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(240),
]

#: Once in its life a browser looks for an icon that Django's administration does not name.
ICON = "status of 404"
#: What a person does to a page, to everything on it: handlers that wait for it would run.
TOUCH = """() => {
  for (const element of document.querySelectorAll("main *, #content *")) {
    for (const kind of ["mouseover", "mouseenter", "pointerdown", "focus", "error", "load", "toggle"]) {
      element.dispatchEvent(new Event(kind, { bubbles: false }));
    }
  }
}"""


def pages_of(client: Client, lease: Assignment) -> list[str]:
    """Return the addresses that answer somebody with a page."""
    found = []
    for address in addresses({"uuid": str(lease.uuid)}):
        if "logout" in address.path:
            continue
        answer = client.get(address.path)
        if answer.status_code == 200 and answer["Content-Type"].startswith("text/html"):
            found.append(address.path)
    return found


class TestPages:
    @pytest.mark.parametrize("payloads", groups(), ids=range(len(groups())))
    @pytest.mark.parametrize("is_staff", [False, True], ids=["labeler", "admin"])
    def test_run_nothing(
        self, quiet_page, context, log_in, live_server, complaints, is_staff, payloads
    ):
        model = conftest.stocked(hostile(payloads))
        user = UserFactory(is_staff=is_staff, is_superuser=is_staff)
        MembershipFactory(model=model, user=user)
        client = Client(raise_request_exception=False)
        client.force_login(user)
        client.get(f"/models/{model.slug}/judge/")
        paths = pages_of(client, Assignment.objects.latest("assigned_at"))
        assert f"/models/{model.slug}/judge/" in paths
        if is_staff:
            # Of the administration, what shows text of others.
            shown = ("/admin/annotate/", "/admin/auth/user/")
            paths = [
                path for path in paths if not path.startswith("/admin/") or path.startswith(shown)
            ]
            assert {f"/models/{model.slug}/rounds/1/", f"/models/{model.slug}/versions/1/"} <= set(
                paths
            )
        log_in(context, user)

        for path in paths:
            quiet_page.goto(live_server.url + path)
            quiet_page.evaluate(TOUCH)
            assert quiet_page.evaluate("window.__x") is None, path
            # Script errors, dialogs and violations of the policy, each with the page it was on.
            assert [(path, said) for said in complaints if ICON not in said] == []
            assert quiet_page.url == live_server.url + path
        complaints.clear()


def test_the_browser_would_tell(context):
    """The same payloads in a page without a policy do run: the test above could fail."""
    page = context.new_page()
    page.set_content(
        "".join(payload for payload in PAYLOADS if payload.startswith(("<img src=x", "<svg on")))
    )

    page.wait_for_function("window.__x === 1")
