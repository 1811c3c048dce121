"""`manage.py triples_export demo --format parquet --output triples.parquet`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotate import exports, triples
from models_registry.models import RegisteredModel


class Command(BaseCommand):
    """Write the triples of a model to a file, or to the standard output."""

    help = "Write the triples of a model as JSONL or Parquet, as `datasets` and TRL read them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("model", help="the registered model's slug")
        parser.add_argument("--format", choices=list(exports.MEDIA_TYPES), default=exports.JSONL)
        parser.add_argument("--ties", action="store_true", help="ties, too")
        parser.add_argument("--keys", choices=list(exports.KEYS), default="chosen_rejected")
        parser.add_argument("--output", type=Path, help="a file that does not exist yet")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write one file."""
        model = RegisteredModel.objects.filter(slug=options["model"]).first()
        if model is None:
            raise CommandError(f"No model {options['model']} is registered; see register_base.")
        pieces = exports.triples_export(
            pairs=triples.triple_pairs(model=model),
            file_format=options["format"],
            ties=options["ties"],
            keys=options["keys"],
        )
        if options["output"] is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            return
        try:
            with options["output"].open("xb") as file:
                file.writelines(pieces)
        except OSError as error:
            raise CommandError(
                f"{options['output']} cannot be written: {error.strerror}."
            ) from error
