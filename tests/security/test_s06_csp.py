"""S06: every response carries our content security policy, and exactly that."""

from __future__ import annotations

import pytest

from tests.security.crawl import addresses

pytestmark = pytest.mark.django_db

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "font-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
}
METHODS = ("get", "post")


def policy_of(response) -> set[str]:
    return {part.strip() for part in response["Content-Security-Policy"].split(";")}


def visited(client, lease) -> dict[str, int]:
    """Ask every address in every way, check the policy, and return the statuses of GET."""
    found = {}
    for address in addresses({"uuid": str(lease.uuid)}):
        for method in METHODS:
            if "logout" in address.path:
                continue
            response = getattr(client, method)(address.path)
            assert policy_of(response) == POLICY, (method, address.path)
            if method == "get":
                found[address.route] = response.status_code
    return found


class TestPolicy:
    def test_is_on_everything_an_admin_gets(self, admin_client, lease):
        found = visited(admin_client, lease)

        assert {route: status for route, status in found.items() if status >= 500} == {}
        # The crawl reaches what it is about, instead of being refused everywhere.
        for route in ("", "models/<slug:slug>/versions/<int:number>/", "admin/"):
            assert found[route] == 200, route
        assert found["models/<slug:slug>/rounds/<int:number>/"] == 200

    def test_is_on_everything_a_labeler_gets(self, labeler_client, lease):
        found = visited(labeler_client, lease)

        assert {route: status for route, status in found.items() if status >= 500} == {}
        assert found["models/<slug:slug>/judge/"] == 200
        assert found["models/<slug:slug>/versions/"] == 404

    def test_is_on_everything_a_stranger_gets(self, client, lease):
        found = visited(client, lease)

        assert found["login/"] == 200
        assert found["models/<slug:slug>/judge/"] == 302

    def test_is_on_errors(self, client):
        client.raise_request_exception = False

        for response in (
            client.get("/nothing/"),
            client.get("/", headers={"host": "evil.example"}),
            client.generic("BREW", "/"),
        ):
            assert response.status_code >= 300
            assert policy_of(response) == POLICY
