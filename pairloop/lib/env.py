"""Typed readers of environment variables; only settings.py calls them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

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


def env_url(name: str, *, schemes: tuple[str, ...], default: str) -> str:
    """Return an address with one of the schemes, and a host or a path behind it."""
    value = env_text(name)
    if not value:
        return default
    try:
        parts = urlsplit(value)
        is_good = parts.scheme in schemes and bool(parts.netloc or parts.path)
        # Reading the port is what refuses a wrong one.
        is_good = is_good and (parts.scheme == "unix" or bool(parts.hostname and parts.port != 0))
    except ValueError:
        is_good = False
    if not is_good:
        forms = " or ".join(f"{scheme}://…" for scheme in schemes)
        raise ImproperlyConfigured(f"{name}={value} is not an address: write {forms}.")
    return value


def env_path(name: str, *, default: Path) -> Path:
    """Return an absolute path; `~` is the home folder."""
    value = env_text(name)
    # Not resolved: the python of a virtual environment is a link that must stay one.
    return Path(value).expanduser().absolute() if value else default
