"""`manage.py person_reset NAME`: make a link with which somebody sets a new password."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from annotate import people
from annotate.management.links import link_lines
from pairloop.lib.errors import Refused


class Command(BaseCommand):
    """Print a link to set a new password; the old one works until the link is used."""

    help = "Print a link with which somebody sets a new password."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take whose it is."""
        parser.add_argument("name", help="the name they log in with")

    def handle(self, *, name: str, **options: Any) -> None:
        """Print the link."""
        try:
            person = User.objects.get(username=name)
            link = people.link_make(person=person, by=None, now=timezone.now())
        except User.DoesNotExist:
            raise CommandError(f"Nobody is called {name}.") from None
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        self.stdout.write(link_lines(person, link))
