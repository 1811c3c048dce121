"""`manage.py person_add NAME [--admin] [--model SLUG]`: make an account and a link to set its password."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from annotate import people
from annotate.management.links import link_lines
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused


class Command(BaseCommand):
    """Add a labeler, or an admin, and print the link with which they set their password."""

    help = "Add a labeler or an admin and print a link to set their password."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take who it is and what they may do."""
        parser.add_argument("name", help="the name to log in with")
        parser.add_argument("--admin", action="store_true", help="an admin, not a labeler")
        parser.add_argument("--model", metavar="SLUG", help="the model that a labeler may judge")

    def handle(self, *, name: str, admin: bool, model: str | None, **options: Any) -> None:
        """Add them and print the link."""
        now = timezone.now()
        try:
            judged = RegisteredModel.objects.get(slug=model) if model else None
            person = people.person_add(
                username=name, is_admin=admin, model=judged, by=None, now=now
            )
            link = people.link_make(person=person, by=None, now=now)
        except RegisteredModel.DoesNotExist:
            raise CommandError(f"No model is registered as {model}.") from None
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        self.stdout.write(link_lines(person, link))
