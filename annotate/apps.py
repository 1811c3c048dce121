"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class AnnotateConfig(AppConfig):
    """Annotation."""

    name = "annotate"
    verbose_name = "Annotation"
