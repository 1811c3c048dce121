"""`manage.py restore DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pairloop.lib.errors import Refused
from pairloop.up import restore


class Command(BaseCommand):
    """Put a backup into an installation that holds nothing yet; Pairloop must not run."""

    help = "Restore a backup into an empty installation while Pairloop is stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("folder", type=Path, help="what `backup` wrote")

    def handle(self, *args: Any, **options: Any) -> None:
        """Exit with 1 and a sentence when something refuses."""
        try:
            restore.restore(options["folder"].absolute(), say=self.stdout.write)
        except Refused as refused:
            raise CommandError(str(refused)) from refused
