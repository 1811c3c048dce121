"""Django admin: to look at; everything is written by actions."""

from __future__ import annotations

from django.contrib import admin

from pairloop.lib.admin import ReadOnlyAdmin
from training.models import (
    AnswerScore,
    Round,
    RoundAttempt,
    RoundMetric,
    RoundPolicy,
    Snapshot,
    SnapshotItem,
)


@admin.register(RoundPolicy)
class RoundPolicyAdmin(ReadOnlyAdmin):
    """When and how rounds run."""

    list_display = ["model", "trigger_triples", "preset", "reference", "sampler"]
    list_select_related = ["model"]


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    """Frozen triples."""

    list_display = ["pk", "model", "count", "sha256", "created_at"]
    list_select_related = ["model"]


@admin.register(SnapshotItem)
class SnapshotItemAdmin(ReadOnlyAdmin):
    """Single frozen triples."""

    list_display = ["snapshot_id", "pair_id", "target", "role", "is_consumed"]


@admin.register(Round)
class RoundAdmin(ReadOnlyAdmin):
    """Rounds."""

    list_display = ["__str__", "state", "parent", "version", "created_at"]
    list_select_related = ["model", "parent__model", "version__model"]


@admin.register(RoundAttempt)
class RoundAttemptAdmin(ReadOnlyAdmin):
    """Tries at rounds."""

    list_display = ["__str__", "outcome", "lease_until", "started_at", "ended_at"]
    list_select_related = ["round__model"]


@admin.register(RoundMetric)
class RoundMetricAdmin(ReadOnlyAdmin):
    """Numbers of rounds."""

    list_display = ["round", "step", "name", "value"]
    list_select_related = ["round__model"]


@admin.register(AnswerScore)
class AnswerScoreAdmin(ReadOnlyAdmin):
    """How versions rate answers."""

    list_display = ["version", "completion_id", "log_ratio", "tokens"]
    list_select_related = ["version__model"]
