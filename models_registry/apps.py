"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    """Models and versions."""

    name = "models_registry"
    verbose_name = "Models and versions"
