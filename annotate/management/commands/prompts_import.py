"""`manage.py prompts_import demo prompts.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotate import actions, prompts
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused


class Command(BaseCommand):
    """Import prompts from a file: the good lines are stored, the bad ones are reported by number."""

    help = (
        'Import prompts: JSONL with {"prompt": "…"} or {"messages": […]} a line, CSV with the columns prompt, system'
        " and tags (separated by semicolons), a JSON list, or a text with one prompt a line; by the end of the"
        " file's name."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("model", help="the registered model's slug")
        parser.add_argument(
            "file", type=Path, help=f"a file that ends with {', '.join(prompts.READERS)}"
        )
        parser.add_argument(
            "--tag", action="append", default=[], help="a tag for every prompt; may be repeated"
        )
        parser.add_argument(
            "--system", default="", help="a system message for the prompts that have none"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Import one file and report on it."""
        model = RegisteredModel.objects.filter(slug=options["model"]).first()
        if model is None:
            raise CommandError(f"No model {options['model']} is registered; see register_base.")
        path: Path = options["file"]
        try:
            report = actions.prompts_import(
                model=model,
                lines=prompts.file_lines(path.name, path.read_bytes()),
                tags=options["tag"],
                system=options["system"],
            )
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
        except Refused as refused:
            raise CommandError(f"{path} cannot be read: {refused}") from refused
        for number, reason in report.rejected:
            self.stderr.write(f"line {number}: {reason}")
        summary = f"{report.created} created, {report.duplicates} duplicates, {len(report.rejected)} rejected"
        if not report.created and not report.duplicates:
            raise CommandError(f"{summary}: nothing was imported from {path}.")
        self.stdout.write(summary)
