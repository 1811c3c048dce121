"""`manage.py register_base demo`, or a Hugging Face folder, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.text import slugify

from models_registry import actions, bases
from pairloop.lib.errors import Refused


class Command(BaseCommand):
    """Register a base model: check it, copy it into the store, record its hashes as v0."""

    help = "Register a base model: 'demo', a local Hugging Face folder, or a hub id."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "source", help="'demo', a folder, or a hub id such as organisation/model"
        )
        parser.add_argument(
            "--slug", help="short name in addresses; made from the source by default"
        )
        parser.add_argument("--name", help="name on pages; made from the source by default")
        parser.add_argument(
            "--rank", type=int, default=16, help="LoRA rank of its rounds (default 16)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Announce the model, make its base, register it; keep the reason when that fails."""
        source: str = options["source"]
        last = "SmolLM2-135M-Instruct" if source == bases.DEMO else Path(source).name
        made = bases.DEMO if source == bases.DEMO else slugify(last.replace("_", "-"))[:50]
        slug = options["slug"] or made
        try:
            bases.kind_of(source)
            model = actions.model_prepare(
                slug=slug, name=options["name"] or last, source=source, lora_rank=options["rank"]
            )
        except Refused as refused:
            raise CommandError(str(refused)) from refused
        try:
            base = bases.base_make(source)
            version = actions.base_register(model=model, base=base, now=timezone.now())
        except Refused as refused:
            actions.base_refused(model=model, reason=str(refused))
            raise CommandError(str(refused)) from refused
        self.stdout.write(
            f"{version} is registered: {base.parameters / 1e6:.0f} million parameters, "
            f"{base.size_bytes / 1e6:.0f} MB, sha256 {base.sha256[:12]}"
        )
