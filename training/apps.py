"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class TrainingConfig(AppConfig):
    """Training."""

    name = "training"
    verbose_name = "Training"
