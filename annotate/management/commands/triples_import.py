"""`manage.py triples_import demo preferences.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotate import imports, queries
from annotate.models import Import
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused


class Command(BaseCommand):
    """Import preference pairs: the good lines are stored, the bad ones are reported by number."""

    help = (
        "Import preference pairs from JSONL or Parquet: prompt, chosen and rejected (or good and bad), each a text or"
        " a list of messages; tags and target (0.5 to 1) if you like."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("model", help="the registered model's slug")
        parser.add_argument("file", type=Path, help="JSONL or Parquet")

    def handle(self, *args: Any, **options: Any) -> None:
        """Import one file and report on it."""
        model = RegisteredModel.objects.filter(slug=options["model"]).first()
        if model is None:
            raise CommandError(f"No model {options['model']} is registered; see register_base.")
        path: Path = options["file"]
        try:
            started = imports.import_start(
                model=model, by=None, filename=path.name, pieces=_pieces(path)
            )
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
        except Refused as refused:
            raise CommandError(f"{path}: {refused}") from refused
        self._report(_finished(model, started))

    def _report(self, done: Import) -> None:
        for number, reason in done.rejected:
            self.stderr.write(f"line {number}: {reason}")
        unnamed = done.rejected_count - len(done.rejected)
        if unnamed:
            self.stderr.write(f"and {unnamed} more")
        summary = (
            f"{done.created} created, of them {done.held_out} held out, {done.duplicates} duplicates,"
            f" {done.rejected_count} rejected"
        )
        if done.failure:
            raise CommandError(f"{done.failure} Until then: {summary}.")
        if not done.created and not done.duplicates:
            raise CommandError(f"{summary}: nothing was imported from {done.filename}.")
        self.stdout.write(summary)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _finished(model: RegisteredModel, started: Import) -> Import:
    """Run the import here, unless a worker is faster; then wait for it."""
    while True:
        imports.import_run(import_id=started.pk)
        found = queries.import_of(model=model, import_id=started.pk)
        if found.is_over:
            return found
        time.sleep(0.5)
