"""Django's settings for the tests: state and PostgreSQL of their own below var/test, for each process of them."""

from __future__ import annotations

import os
from pathlib import Path

# Before the import below, which reads it. Processes that test side by side inherit the first one's folder and
# add their names to it; what they start inherits theirs.
os.environ.setdefault("PAIRLOOP_VAR", str(Path(__file__).resolve().parent.parent / "var" / "test"))
os.environ["PAIRLOOP_VAR"] = os.environ["PAIRLOOP_VAR"].removesuffix(
    os.environ.get("PYTEST_XDIST_WORKER", "")
) + os.environ.get("PYTEST_XDIST_WORKER", "")

from pairloop.settings import *  # noqa: F403
from pairloop.settings import DATABASES, LOGGING, STORAGES, TEMPLATES

# Slow hashes protect people; tests have none.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Manifest storage wants collectstatic first.
STORAGES = STORAGES | {
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
}
# The coverage plugin for templates needs it.
TEMPLATES[0]["OPTIONS"]["debug"] = True
# Connections kept open between tests would keep the server from stopping quickly.
DATABASES["default"]["CONN_MAX_AGE"] = 0
LOGGING["root"]["level"] = "WARNING"
