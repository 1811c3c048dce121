"""`manage.py prompts_import demo prompts.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotate import actions, prompts
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
            # With or without the byte order mark that some editors write.
            text = options["file"].read_text(encoding="utf-8-sig")
        except OSError as error:
            raise CommandError(f"{options['file']} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise CommandError(
                f"{options['file']} cannot be read: it is not UTF-8 text. Save it as UTF-8 first."
            ) from error
        report = actions.prompts_import(model=model, lines=prompts.lines_of(text))
        for number, reason in report.rejected:
            self.stderr.write(f"line {number}: {reason}")
        summary = f"{report.created} created, {report.duplicates} duplicates, {len(report.rejected)} rejected"
        if not report.created and not report.duplicates:
            raise CommandError(f"{summary}: nothing was imported from {options['file']}.")
        self.stdout.write(summary)
