"""`manage.py token_list [ada]`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from pairloop.accounts import queries


class Command(BaseCommand):
    """List the tokens for the REST API: never the secrets, which nobody knows."""

    help = "List tokens: how they begin, whose they are, name, scope, expiry and last use."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("user", nargs="?", help="only of this user")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print one a line."""
        found = queries.tokens()
        if options["user"]:
            found = found.filter(user__username=options["user"])
        for token in found:
            scope = "reads" if token.is_read_only else "reads and writes"
            used = f"used {token.last_used_at:%Y-%m-%d}" if token.last_used_at else "never used"
            self.stdout.write(
                f"{token.token_key}  {token.user}  {token.name}  {scope}  until {token.expiry:%Y-%m-%d}  {used}"
            )
