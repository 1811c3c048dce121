"""Typed readers of environment variables; only settings.py calls them."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def env_text(name: str, default: str = "") -> str:
    """Return the variable's value without surrounding blanks, or the default when it is unset or empty."""
    return os.environ.get(name, "").strip() or default


def env_bool(name: str, *, default: bool) -> bool:
    """Return a flag written as 1/0, true/false, yes/no or on/off."""
    value = env_text(name).lower()
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    if value:
        raise ImproperlyConfigured(f"{name}={value} is not a flag: write 1 or 0.")
    return default


def env_int(name: str, *, default: int, least: int = 0) -> int:
    """Return a whole number that is not below `least`."""
    value = env_text(name)
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or int(value) < least:
        raise ImproperlyConfigured(f"{name}={value} must be a whole number of at least {least}.")
    return int(value)


def env_list(name: str, *, default: list[str]) -> list[str]:
    """Return a comma-separated list."""
    parts = [part.strip() for part in env_text(name).split(",")]
    return [part for part in parts if part] or default


def env_path(name: str, *, default: Path) -> Path:
    """Return an absolute path; `~` is the home folder."""
    value = env_text(name)
    # Not resolved: the python of a virtual environment is a link that must stay one.
    return Path(value).expanduser().absolute() if value else default
