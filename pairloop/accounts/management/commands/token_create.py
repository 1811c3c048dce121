"""`manage.py token_create ada --name laptop --days 90 --read-only`."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from pairloop.accounts import actions
from pairloop.accounts.forms import TokenForm
from pairloop.lib.errors import Refused


class Command(BaseCommand):
    """Make a token for a user and print it, this once."""

    help = "Make a token for the REST API and print it, this once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("user", help="the user's name")
        parser.add_argument("--name", required=True, help="what will use it")
        parser.add_argument(
            "--days", type=int, default=90, help=f"until it expires, at most {actions.MOST_DAYS}"
        )
        parser.add_argument("--read-only", action="store_true", help="it may only read")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make one token."""
        user = User.objects.filter(username=options["user"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active user {options['user']}.")
        form = TokenForm(
            {"name": options["name"], "days": options["days"], "is_read_only": options["read_only"]}
        )
        if not form.is_valid():
            name, why = next(iter(form.errors.items()))
            raise CommandError(f"--{name}: {' '.join(map(str, why))}")
        try:
            token, secret = actions.token_create(user=user, now=timezone.now(), **form.cleaned_data)
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        self.stderr.write(f"{token.name} of {user} until {token.expiry:%Y-%m-%d}, shown only now:")
        self.stdout.write(secret)
