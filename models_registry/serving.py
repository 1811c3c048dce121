"""The one place that decides which engine Pairloop talks to."""

from __future__ import annotations

from django.conf import settings

from models_registry.engine.client import VllmEngine


def engine() -> VllmEngine:
    """Return a client of the engine in the settings; use it in a `with` block."""
    return VllmEngine(settings.ENGINE_URL, key=settings.ENGINE_KEY, timeout=settings.ENGINE_TIMEOUT)
