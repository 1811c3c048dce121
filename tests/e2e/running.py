"""Settings of a server of its own on the tests' database, for tests that kill and start it."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES["default"]["NAME"] = os.environ["PAIRLOOP_E2E_DATABASE"]
