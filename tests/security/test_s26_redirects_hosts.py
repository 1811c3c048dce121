"""S26: nobody is led elsewhere, wrong hosts are refused, and only a configured proxy is believed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from django.test import Client

from pairloop.lib.http import client_address
from pairloop.up import components
from tests import factories

pytestmark = pytest.mark.django_db

ELSEWHERE = [
    "https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example", "\\\\evil.example",
    "http:evil.example", "javascript:alert(1)", "https://testserver@evil.example/", "/\t/evil.example",
    " https://evil.example", "https:\\\\evil.example", "//testserver:80@evil.example/", "data:text/html,x",
]  # fmt: skip


class TestNext:
    @pytest.mark.parametrize("target", ELSEWHERE)
    @pytest.mark.parametrize("where", ["form", "query"])
    def test_leads_nowhere_else_after_a_login(self, client, target, where):
        user = factories.UserFactory.create()
        form = {"username": user.username, "password": factories.PASSWORD}

        if where == "form":
            answer = client.post("/login/", form | {"next": target})
        else:
            answer = client.post("/login/", form, query_params={"next": target})

        assert (answer.status_code, answer.url) == (302, "/")

    @pytest.mark.parametrize("target", ELSEWHERE)
    def test_leads_nowhere_else_after_a_logout(self, client, target):
        client.force_login(factories.UserFactory.create())

        answer = client.post("/logout/", {"next": target})

        assert (answer.status_code, answer.url) == (302, "/login/")


class TestHosts:
    @pytest.mark.parametrize(
        "host", ["evil.example", "testserver.evil.example", "testserver@evil.example", "a b", ""]
    )
    def test_of_others_are_refused(self, client, host, settings):
        settings.ALLOWED_HOSTS = ["testserver"]
        client.raise_request_exception = False

        assert client.get("/login/", headers={"host": host}).status_code == 400

    def test_of_a_forwarding_header_are_not_believed(self, client):
        answer = client.get("/models/x/judge/", headers={"x-forwarded-host": "evil.example"})

        assert answer.url == "/login/?next=/models/x/judge/"
        page = client.get("/login/", headers={"x-forwarded-host": "evil.example"})
        assert "evil.example" not in page.text


class TestProxy:
    """What a proxy says in headers counts when PAIRLOOP_HTTPS says that there is one."""

    FORGED = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}

    def test_is_not_believed_unless_configured(self, rf, settings):
        settings.HTTPS = False
        settings.SECURE_PROXY_SSL_HEADER = None

        request = rf.get("/", headers=self.FORGED, REMOTE_ADDR="192.0.2.1")

        assert client_address(request) == "192.0.2.1"
        assert not request.is_secure()

    @pytest.mark.parametrize(
        ("forwarded", "address"),
        [
            ("203.0.113.9", "203.0.113.9"),
            # The proxy writes at the end; what stands before that came with the request.
            ("127.0.0.1, 203.0.113.9", "203.0.113.9"),
            ("2001:db8::1", "2001:db8::1"),
            ("", "127.0.0.1"),
            ("no address", "127.0.0.1"),
            ('203.0.113.9\n{"event": "forged"}', "127.0.0.1"),
        ],
    )
    def test_tells_the_last_address_when_configured(self, rf, settings, forwarded, address):
        settings.HTTPS = True

        request = rf.get("/", REMOTE_ADDR="127.0.0.1")
        request.META["HTTP_X_FORWARDED_FOR"] = forwarded

        assert client_address(request) == address

    def test_changes_nothing_of_a_post_without_its_token(self, settings):
        settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
        client = Client(enforce_csrf_checks=True)

        answer = client.post(
            "/login/", {"username": "x"},
            headers={"x-forwarded-proto": "https", "origin": "https://evil.example"},
        )  # fmt: skip

        assert answer.status_code == 403


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PAIRLOOP_")}
    return kept | {"DJANGO_SETTINGS_MODULE": "pairloop.settings", **more}


class TestServer:
    """The real gunicorn, as `manage.py up` starts it."""

    @pytest.fixture
    def address(self, tmp_path) -> Iterator[str]:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # It answers with the scheme that it believes in; neither page nor database takes part.
        program = tmp_path / "seen.py"
        program.write_text(
            "def application(environ, start):\n"
            "    start('200 OK', [])\n"
            "    return [environ['wsgi.url_scheme'].encode(), b' ', environ['SCRIPT_NAME'].encode()]\n"
        )
        command = [
            "seen:application" if part == "pairloop.wsgi:application" else part
            for part in components._web().command
        ]
        command[command.index("--bind") + 1] = f"127.0.0.1:{port}"
        process = subprocess.Popen(
            [sys.executable, *command[1:]],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(timeout=10)

    def test_believes_no_forwarding_header_by_itself(self, address):
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = httpx.get(
                    address,
                    headers={
                        "x-forwarded-proto": "https", "x-forwarded-ssl": "on", "script_name": "/evil",
                    },
                    trust_env=False,
                )  # fmt: skip
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

        assert answer.text == "http "


class TestStart:
    @pytest.mark.parametrize(
        ("bind", "https", "warns"),
        [
            ("127.0.0.1:8000", False, False),
            ("[::1]:8000", False, False),
            ("localhost:8000", False, False),
            ("0.0.0.0:8000", False, True),
            (":8000", False, True),
            ("192.0.2.7:8000", False, True),
            ("0.0.0.0:8000", True, True),
            ("127.0.0.1:8000", True, False),
        ],
    )
    def test_warns_about_an_address_that_others_reach(self, bind, https, warns):
        assert bool(components.exposure(bind, is_https=https)) is warns

    def test_without_a_key_makes_one_of_its_own(self, tmp_path):
        """S01: 50 characters or more, for the owner only, and not the same twice."""
        keys = set()
        for name in ("one", "two"):
            code = "from django.conf import settings; print(settings.SECRET_KEY)"
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=environment(PAIRLOOP_VAR=str(tmp_path / name)),
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            file = tmp_path / name / "secrets" / "django"
            assert file.stat().st_mode & 0o777 == 0o600
            assert file.parent.stat().st_mode & 0o777 == 0o700
            assert done.stdout.strip() == file.read_text()
            keys.add(done.stdout.strip())
        assert len(keys) == 2
        assert min(map(len, keys)) >= 50
