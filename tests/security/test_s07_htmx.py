"""S07: htmx runs nothing that came in a page: no evaluated attributes, no scripts in parts, no other origin."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.conf import settings

from tests.security.crawl import addresses

OURS = {
    "allowEval": False,
    "allowScriptTags": False,
    "includeIndicatorStyles": False,
    "historyCacheSize": 0,
    "selfRequestsOnly": True,
}
#: Attributes whose value htmx evaluates or that browsers run, and inline script or style.
FORBIDDEN = re.compile(
    r"""hx-on|\bjs:|javascript:|hx-vars|hx-trigger\s*=\s*["'][^"']*\[|\son[a-z]+\s*=|\sstyle\s*=|<style"""
    r"""|<script(?![^>]*\ssrc\s*=)|hx-ext|hx-disable-csp|\|\s*safe\b|autoescape\s+off""",
    re.IGNORECASE,
)
CONFIG = re.compile(r"""<meta\s+name="htmx-config"\s+content='([^']*)'""")


def templates() -> list[Path]:
    return sorted((settings.BASE_DIR / "templates").rglob("*.html"))


class TestTemplates:
    @pytest.mark.parametrize(
        "path", templates(), ids=lambda path: str(path.relative_to(settings.BASE_DIR))
    )
    def test_have_nothing_that_is_evaluated(self, path: Path):
        assert FORBIDDEN.findall(path.read_text(encoding="utf-8")) == []

    @pytest.mark.parametrize(
        "bad",
        [
            '<a hx-on:click="x()">', "<div hx-vals='js:{a: 1}'>", '<a href="javascript:x()">',
            '<p onclick="x()">', "<script>x()</script>", '<p style="color: red">', "{{ text|safe }}",
            '<div hx-trigger="click[x()]">',
        ],
    )  # fmt: skip
    def test_would_be_told(self, bad: str):
        assert FORBIDDEN.findall(bad)


@pytest.mark.django_db
class TestConfig:
    def test_is_on_every_page(self, admin_client, labeler_client, client, lease):
        seen = 0
        for someone in (admin_client, labeler_client, client):
            for address in addresses({"uuid": str(lease.uuid)}):
                if address.path.startswith("/admin/") or "logout" in address.path:
                    continue
                page = someone.get(address.path)
                if "text/html" not in page.get("Content-Type", "") or "<html" not in page.text:
                    continue
                found = CONFIG.search(page.text)
                # Pages of others, such as the API's, load no htmx.
                assert found or "htmx" not in page.text, address.path
                if found:
                    assert json.loads(found[1]).items() >= OURS.items(), address.path
                    seen += 1
        assert seen > 8
