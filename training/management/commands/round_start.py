"""`manage.py round_start SLUG`: start a round on the triples that wait."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused
from training import actions, presets
from training.models import Reference


class Command(BaseCommand):
    """Freeze a model's triples and queue a round on them; a running Pairloop trains it."""

    help = "Start a round of DPO on the triples that wait; the running Pairloop trains it."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the model and this round's wishes."""
        parser.add_argument("slug", help="the registered model, as in demo")
        wish = "for this round only; else the model's policy"
        own = f"{wish}; another one than the policy's comes with its own beta"
        parser.add_argument("--preset", choices=presets.PRESETS, help=own)
        parser.add_argument("--beta", type=float, help=wish)
        parser.add_argument("--ties", action=BooleanOptionalAction, help=wish)
        parser.add_argument("--learning-rate", type=float, help=wish)
        parser.add_argument("--epochs", type=int, help=wish)
        parser.add_argument("--batch-pairs", type=int, help=wish)
        parser.add_argument("--reference", choices=Reference.values, help=wish)
        parser.add_argument("--replay-share", type=float, help=wish)
        parser.add_argument("--most-new", type=int, metavar="TRIPLES", help=f"0: all; {wish}")

    def handle(self, *, slug: str, **options: Any) -> None:
        """Start it and say where to watch."""
        names = (
            "preset", "beta", "learning_rate", "epochs", "batch_pairs", "reference", "replay_share", "ties",
            "most_new",
        )  # fmt: skip
        overrides = {name: options[name] for name in names if options[name] is not None}
        try:
            model = RegisteredModel.objects.get(slug=slug)
            round_ = actions.round_start(
                model=model, by=None, now=timezone.now(), overrides=overrides
            )
        except RegisteredModel.DoesNotExist:
            raise CommandError(f"No model is registered as {slug}.") from None
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        self.stdout.write(
            f"Round {round_.number} of {slug} is queued with {round_.snapshot.count} triples:"
            f" /models/{slug}/rounds/{round_.number}/"
        )
