"""How commands print a link to set a password."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import User
from django.urls import reverse

from annotate.people import Link
from pairloop.lib import files
from pairloop.lib.http import origin

CONFIGURED = (
    "Pairloop does not run on this state folder; the address is the one that PAIRLOOP_ORIGINS or PAIRLOOP_BIND"
    " says here."
)


def link_lines(person: User, link: Link) -> str:
    """Return the link with the address of the Pairloop that runs, else the configured one, and how long it works."""
    running = _running()
    path = reverse("person-link", args=[link.uid, link.token])
    told = (
        f"{person.get_username()} sets a password here, once and within"
        f" {settings.PASSWORD_RESET_TIMEOUT // 86400} days:\n{running or origin()}{path}"
    )
    return told if running else f"{told}\n{CONFIGURED}"


def _running() -> str:
    """Return the address that the supervisor serves pages at; empty when there is none."""
    status = files.read_json(settings.STATUS_FILE)
    web = status.get("components", {}).get("web", {})
    return str(status.get("address", "")) if web.get("state") in {"ready", "running"} else ""
