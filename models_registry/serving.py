"""The one place that decides which engine Pairloop talks to."""

from __future__ import annotations

from django.conf import settings

from models_registry.engine.client import VllmEngine


def engine(*, timeout: float | None = None) -> VllmEngine:
    """Return a client of the engine in the settings, which waits `timeout` seconds for an answer."""
    return VllmEngine(
        settings.ENGINE_URL, key=settings.ENGINE_KEY, timeout=timeout or settings.ENGINE_TIMEOUT
    )
