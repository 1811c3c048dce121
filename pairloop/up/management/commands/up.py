"""`manage.py up`."""

from __future__ import annotations

import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand

from pairloop.lib.errors import Refused
from pairloop.up import components


class Command(BaseCommand):
    """Run the database, the web server, the engine and the worker until Ctrl-C."""

    help = "Run all of Pairloop until Ctrl-C: database, web, engine, worker."
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Exit with 1 and a sentence when something refuses."""
        # Until the supervisor listens to signals itself, SIGTERM ends us as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            code = components.up(say=self._say)
        except Refused as refused:
            self.stderr.write(str(refused))
            code = 1
        except KeyboardInterrupt:
            self._say("Stopped before anything ran.")
            code = 0
        if code:
            sys.exit(code)

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
