"""`manage.py version_export SLUG VERSION FOLDER`: take a version along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from models_registry import exports, queries
from models_registry.models import Alias, ModelVersion, RegisteredModel
from pairloop.lib.errors import Refused
from training.cards import card_of


class Command(BaseCommand):
    """Write a version as a folder that PEFT, or with --merged transformers, loads; its card with it."""

    help = "Export a version: its adapter as a PEFT folder, or with --merged the whole model."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the version, the folder and how."""
        parser.add_argument("slug", help="the registered model, as in demo")
        parser.add_argument("version", help="a number as in 3 or v3, or an alias as in champion")
        parser.add_argument("folder", type=Path, help="an empty one, or one that is not there yet")
        parser.add_argument(
            "--merged",
            action="store_true",
            help="the whole model with the adapter merged in; takes minutes",
        )
        parser.add_argument(
            "--force", action="store_true", help="replace what an earlier export left in the folder"
        )

    def handle(self, *, slug: str, version: str, folder: Path, **options: Any) -> None:
        """Find it, write it and say what is there now."""
        found = _version(slug, version)
        write = exports.merged_export if options["merged"] else exports.adapter_export
        if options["merged"]:
            self.stdout.write("Writing the whole model; a small one takes about a minute …")
        try:
            write(
                version=found,
                card=card_of(found, merged=options["merged"]).text,
                target=folder,
                force=options["force"],
            )
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        size = sum(path.stat().st_size for path in folder.iterdir())
        self.stdout.write(
            f"{found} is in {folder} ({size / 1e6:.0f} MB); its README.md says how to load it."
        )


def _version(slug: str, named: str) -> ModelVersion:
    """Return the version of a number or an alias. Raises CommandError."""
    try:
        model = RegisteredModel.objects.get(slug=slug)
    except RegisteredModel.DoesNotExist:
        raise CommandError(f"No model is registered as {slug}.") from None
    digits = named.removeprefix("v")
    try:
        if digits.isascii() and digits.isdigit():
            return queries.version_numbered(model=model, number=int(digits))
        return queries.version_of_alias(model=model, name=named)
    except (ModelVersion.DoesNotExist, Alias.DoesNotExist):
        raise CommandError(
            f"{slug} has no version {named}. Name a number as in 3, or one of its aliases: "
            f"{', '.join(sorted(queries.aliases_of(model))) or 'none yet'}."
        ) from None
