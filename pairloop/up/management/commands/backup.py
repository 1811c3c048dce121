"""`manage.py backup DIR`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pairloop.lib.errors import Refused
from pairloop.up import backup


class Command(BaseCommand):
    """Back up database, versions, bases and rounds; Pairloop may run meanwhile."""

    help = "Write a backup into a new folder; Pairloop may run meanwhile. No secrets are in it."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("folder", type=Path, help="a new or empty folder")
        parser.add_argument(
            "--without-bases",
            action="store_true",
            help="leave the base models out; they are large, never change, and can be made again",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Exit with 1 and a sentence when something refuses; what is damaged is told on stderr."""
        # Stopped by a timer, it tidies up as after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            manifest = backup.backup(
                options["folder"].absolute(),
                with_bases=not options["without_bases"],
                say=self.stdout.write,
            )
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        for line in manifest.damaged:
            self.stderr.write(f"Not in the backup: {line}")
