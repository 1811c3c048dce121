"""Django's settings for the tests: state and PostgreSQL of their own below var/test."""

from __future__ import annotations

import os
from pathlib import Path

# Before the import below, which reads it.
os.environ.setdefault("PAIRLOOP_VAR", str(Path(__file__).resolve().parent.parent / "var" / "test"))

from pairloop.settings import *  # noqa: F403
from pairloop.settings import DATABASES, LOGGING, STORAGES

# Slow hashes protect people; tests have none.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Manifest storage wants collectstatic first.
STORAGES = STORAGES | {
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
}
# Connections kept open between tests would keep the server from stopping quickly.
DATABASES["default"]["CONN_MAX_AGE"] = 0
LOGGING["root"]["level"] = "WARNING"
