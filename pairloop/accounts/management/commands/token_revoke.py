"""`manage.py token_revoke ada pl_3fa91c2e04b8`."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pairloop.accounts import actions
from pairloop.accounts.models import Token


class Command(BaseCommand):
    """End a token at once."""

    help = "End a token at once; token_list says how tokens begin."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("user", help="whose it is")
        parser.add_argument("key", help="how it begins, pl_ and twelve characters")

    def handle(self, *args: Any, **options: Any) -> None:
        """End one token."""
        try:
            user = User.objects.get(username=options["user"])
            actions.token_revoke(user=user, key=options["key"])
        except (User.DoesNotExist, Token.DoesNotExist) as missing:
            raise CommandError(
                f"{options['user']} has no token {options['key']}; see token_list."
            ) from missing
        self.stdout.write(f"{options['key']} is revoked.")
