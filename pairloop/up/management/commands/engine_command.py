"""`manage.py engine_command demo`: how to start this model's vLLM on a machine of one's own."""

from __future__ import annotations

import shlex
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from models_registry import queries
from pairloop.up import engine


class Command(BaseCommand):
    """Print the command of a vLLM that Pairloop can use by PAIRLOOP_ENGINE_URL."""

    help = "Print the vLLM command for PAIRLOOP_ENGINE_URL, with the names that Pairloop asks for."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("model", help="the registered model's slug")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print one command."""
        version = queries.base_version(options["model"])
        if version is None:
            raise CommandError(f"No model {options['model']} is registered; see register_base.")
        served = [
            "vllm", "serve", str(settings.BASES / version.artifact_path),
            "--served-model-name", version.served_name,
            "--host", "127.0.0.1", "--port", "8001",
            *engine.options(
                lora_rank=version.model.lora_rank,
                lora_target_modules=version.model.lora_target_modules,
            ),
        ]  # fmt: skip
        self.stdout.write(f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 {shlex.join(served)}")
