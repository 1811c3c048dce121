"""How commands print a link to set a password."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import User
from django.urls import reverse

from annotate.people import Link


def link_lines(person: User, link: Link) -> str:
    """Return the link with the address that this Pairloop most likely has, and how long it works."""
    scheme = "https" if settings.HTTPS else "http"
    origin = next(iter(settings.CSRF_TRUSTED_ORIGINS), f"{scheme}://{settings.BIND}")
    path = reverse("person-link", args=[link.uid, link.token])
    return (
        f"{person.get_username()} sets a password here, once and within"
        f" {settings.PASSWORD_RESET_TIMEOUT // 86400} days:\n{origin}{path}"
    )
