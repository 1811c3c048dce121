"""`manage.py versions_average SLUG v2 v3 --reason …`: make a version out of several."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from models_registry import queries
from models_registry.models import ModelVersion, RegisteredModel
from pairloop.lib.errors import Refused
from training import averages


class Command(BaseCommand):
    """Average versions of one model; the engine checks the result like that of a round."""

    help = "Register the weighted mean of several versions as the model's next one."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the versions, their weights and why."""
        parser.add_argument("slug", help="the registered model, as in demo")
        parser.add_argument("versions", nargs="+", help="numbers, as in v2 v3")
        parser.add_argument(
            "--weights",
            type=_weights,
            help="as in 0.5,0.5; only their proportion counts; equal if left out",
        )
        parser.add_argument("--reason", required=True, help="stays with the version")

    def handle(
        self,
        *,
        slug: str,
        versions: list[str],
        weights: list[float] | None,
        reason: str,
        **_options: Any,
    ) -> None:
        """Average them and say what came of it."""
        try:
            model = RegisteredModel.objects.get(slug=slug)
        except RegisteredModel.DoesNotExist:
            raise CommandError(f"No model is registered as {slug}.") from None
        found = [_version(model, named) for named in versions]
        self.stdout.write("Averaging, and checking the result on the base …")
        try:
            made = averages.versions_average(
                versions=found,
                weights=weights or [1.0] * len(found),
                reason=reason,
                now=timezone.now(),
            )
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        self.stdout.write(
            f"{made} is the mean of {queries.average_said(made.average)}; the rank has cost"
            f" {made.average['lost']:.2%} of its norm. The running Pairloop loads and checks it. No guardrail was"
            f" measured on it, so it does not sample: compare it, and promote it when it is better:"
            f" /models/{slug}/versions/{made.number}/"
        )


def _weights(text: str) -> list[float]:
    try:
        return [float(weight) for weight in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text} are no numbers with commas between") from None


def _version(model: RegisteredModel, named: str) -> ModelVersion:
    """Return the version of a number. Raises CommandError."""
    digits = named.removeprefix("v")
    try:
        if digits.isascii() and digits.isdigit():
            return queries.version_numbered(model=model, number=int(digits))
    except ModelVersion.DoesNotExist:
        pass
    raise CommandError(f"{model} has no version {named}. Name numbers, as in v2 v3.")
