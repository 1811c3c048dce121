"""`manage.py prompts_import demo prompts.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotate import actions
from models_registry.models import RegisteredModel


class Command(BaseCommand):
    """Import prompts from JSONL: the good lines are stored, the bad ones are reported by number."""

    help = 'Import prompts, one {"prompt": "…"} or {"messages": […]} a line, with optional "tags".'

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("model", help="the registered model's slug")
        parser.add_argument("file", type=Path, help="a JSONL file")

    def handle(self, *args: Any, **options: Any) -> None:
        """Import one file and report on it."""
        model = RegisteredModel.objects.filter(slug=options["model"]).first()
        if model is None:
            raise CommandError(f"No model {options['model']} is registered; see register_base.")
        try:
            text = options["file"].read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{options['file']} cannot be read: {error}") from error
        report = actions.prompts_import(model=model, lines=_lines(text))
        for number, reason in report.rejected:
            self.stderr.write(f"line {number}: {reason}")
        self.stdout.write(
            f"{report.created} created, {report.duplicates} duplicates, {len(report.rejected)} rejected"
        )


def _lines(text: str) -> Iterator[Any]:
    """Yield each line's value; a line that is not JSON is passed on as it is, to be refused by number."""
    # Not splitlines: a JSON text may hold other line separators, such as U+2028, as they are.
    for line in text.removesuffix("\n").split("\n"):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield line
