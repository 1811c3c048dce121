"""The app's place in Django."""

from __future__ import annotations

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Tokens, and the brakes on requests and on wrong passwords."""

    name = "pairloop.accounts"
    label = "accounts"

    def ready(self) -> None:
        """Tell drf-spectacular about tokens."""
        from pairloop.accounts.api import scheme  # noqa: F401, PLC0415
