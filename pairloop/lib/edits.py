"""Settings that two people may edit at once: whoever saves second is told, and nothing is lost silently."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model

from pairloop.lib.errors import Refused


class ChangedMeanwhile(Refused):
    """Somebody saved these settings while you were editing. Yours are below: save again if they should stand."""

    code = "changed_meanwhile"


class SettingsInvalid(Refused):
    """These settings are not valid."""

    code = "settings_invalid"


def fingerprint(row: Model, names: Iterable[str]) -> str:
    """Return a short text that differs as soon as one of the fields does."""
    values = {name: _plain(getattr(row, name)) for name in names}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def save(row: Model, *, values: Mapping[str, Any], seen: str) -> bool:
    """Write fields of a row that the caller has locked; False when it says so already.

    `seen` is the fingerprint of what the editor had before them; by fields and not by row, so that two who
    edit different groups do not disturb each other. Raises ChangedMeanwhile, SettingsInvalid.
    """
    if all(_plain(getattr(row, name)) == _plain(value) for name, value in values.items()):
        return False
    if fingerprint(row, values) != seen:
        raise ChangedMeanwhile
    for name, value in values.items():
        setattr(row, name, value)
    try:
        row.full_clean()
    except ValidationError as error:
        raise SettingsInvalid(" ".join(error.messages)) from error
    row.save()
    return True


def _plain(value: Any) -> Any:
    """Let the blanks around a text not count: browsers add and take them."""
    return value.replace("\r\n", "\n").strip() if isinstance(value, str) else value
