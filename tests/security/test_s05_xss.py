"""S05: what people and models write is shown and never run: through the markdown filter and on every page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from annotate.models import Assignment
from pairloop.lib import markdown
from tests import factories
from tests.security import conftest
from tests.security.crawl import addresses
from tests.security.hostile import PAYLOADS, RUN, read

#: So many at once, since a fence or a comment that stays open would swallow what follows.
AT_ONCE = 24
#: For fields that are short.
SHORT = f'"><img src=x onerror={RUN}>'


def hostile(payloads: list[str]) -> Callable[[str], str]:
    """Return a function that gives every text of a model these payloads."""

    def text(what: str) -> str:
        return SHORT if what in {"tag", "user", "name"} else "\n\n".join(["shown-here", *payloads])

    return text


def groups() -> list[list[str]]:
    # PostgreSQL keeps no NUL.
    kept = [payload.replace("\x00", "") for payload in PAYLOADS]
    return [kept[start : start + AT_ONCE] for start in range(0, len(kept), AT_ONCE)]


class TestMarkdown:
    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_runs_nothing(self, payload):
        for text in (
            payload,
            f"Before {payload} after.",
            f"> - {payload}\n",
            f"| {payload} |\n| - |\n| x |",
        ):
            found = read(str(markdown.render(text)))

            assert found.faults == []

    def test_of_them_all_at_once_runs_nothing(self):
        assert read(str(markdown.render("\n\n".join(PAYLOADS)))).faults == []

    def test_keeps_plain_links(self):
        found = read(str(markdown.render("[plain](https://example.org/page)")))

        assert (found.links, found.faults) == (1, [])


class TestReader:
    """The check itself sees what it is there for."""

    def test_knows_at_least_sixty_ways(self):
        assert len(set(PAYLOADS)) >= 60

    @pytest.mark.parametrize(
        "payload",
        [
            payload
            for payload in PAYLOADS
            if payload.startswith(("<img ", "<svg ", "<iframe", "<script"))
        ],
    )
    def test_sees_what_is_not_escaped(self, payload):
        assert read(payload).faults

    def test_sees_links_that_give_something_away(self):
        assert read('<a href="https://evil.example">x</a>').faults
        assert read('<a href=" java\tscript:x()">x</a>').faults


@pytest.mark.django_db
class TestPages:
    @pytest.mark.parametrize("payloads", groups(), ids=lambda group: group[0][:12])
    @pytest.mark.parametrize("who", ["admin", "labeler"])
    def test_run_nothing(self, who, payloads, admin_client):
        model = conftest.stocked(hostile(payloads))
        labeler = factories.MembershipFactory.create(model=model).user
        client = admin_client
        if who == "labeler":
            client = type(admin_client)(raise_request_exception=False)
            client.force_login(labeler)
        client.get(f"/models/{model.slug}/judge/")
        lease = Assignment.objects.order_by("assigned_at").last()

        shown = set()
        for address in addresses({"uuid": str(lease.uuid)}):
            if "logout" in address.path:
                continue
            page = client.get(address.path)
            if not page.get("Content-Type", "").startswith("text/html"):
                continue
            assert read(page.text).faults == [], address.path
            if "shown-here" in page.text:
                shown.add(address.route)

        # They were there to be run.
        assert "models/<slug:slug>/judge/" in shown
        if who == "admin":
            assert shown >= {
                "models/<slug:slug>/rounds/<int:number>/",
                "models/<slug:slug>/versions/<int:number>/",
            }

    def test_give_back_nothing_that_runs(self, admin_client):
        conftest.stocked(lambda _what: "Plain words.")

        for payload in PAYLOADS:
            for path in ("/login/", "/models/demo/rounds/", "/nothing/"):
                pages = [
                    admin_client.get(path, {"next": payload, "q": payload}),
                    admin_client.post(
                        path, {"username": payload, "reason": payload, "beta": payload}
                    ),
                ]
                for page in pages:
                    assert read(page.text).faults == [], (path, payload)
