"""The one place that decides which engine Pairloop talks to."""

from __future__ import annotations

import hashlib

from django.conf import settings

from models_registry.engine.client import VllmEngine


def url_of(slug: str) -> str:
    """Return where the engine of a model listens; an engine that somebody else runs is the only one."""
    if not settings.ENGINE_IS_OURS or slug == settings.MODELS[0]:
        return str(settings.ENGINE_URL)
    # A socket's path is short, and a slug may be long.
    name = hashlib.sha256(slug.encode()).hexdigest()[:8]
    return f"unix://{settings.SOCKETS / f'engine-{name}.sock'}"


def urls() -> list[str]:
    """Return where the engines of all models listen that Pairloop was started for."""
    return list(dict.fromkeys(map(url_of, settings.MODELS)))


def engine(url: str, *, timeout: float | None = None) -> VllmEngine:
    """Return a client of an engine, which waits `timeout` seconds for an answer."""
    return VllmEngine(url, key=settings.ENGINE_KEY, timeout=timeout or settings.ENGINE_TIMEOUT)
