"""Django admin: to look at; everything is written by actions."""

from __future__ import annotations

from django.contrib import admin

from annotate.models import (
    Assignment,
    ComparisonDrop,
    Completion,
    Drop,
    Flag,
    Gold,
    Guidelines,
    Import,
    ImportedPreference,
    Judgement,
    JudgingPolicy,
    Pair,
    Prompt,
    QueueEntry,
    Repeat,
    SamplingState,
    WeakSpot,
)
from pairloop.lib.admin import ReadOnlyAdmin


@admin.register(JudgingPolicy)
class JudgingPolicyAdmin(ReadOnlyAdmin):
    """How pairs are made and judged."""

    list_display = ["model", "queue_target", "overlap", "temperature", "max_tokens"]
    list_select_related = ["model"]


@admin.register(Guidelines)
class GuidelinesAdmin(ReadOnlyAdmin):
    """What labelers were told."""

    list_display = ["model", "version", "created_by", "created_at"]
    list_select_related = ["model", "created_by"]


@admin.register(Prompt)
class PromptAdmin(ReadOnlyAdmin):
    """Prompts."""

    list_display = ["pk", "model", "split", "question", "tags"]
    list_filter = ["model", "split"]
    list_select_related = ["model"]


@admin.register(Completion)
class CompletionAdmin(ReadOnlyAdmin):
    """Completions."""

    list_display = ["pk", "prompt_id", "version", "finish_reason", "created_at"]
    list_select_related = ["version__model"]


@admin.register(Pair)
class PairAdmin(ReadOnlyAdmin):
    """Pairs."""

    list_display = ["pk", "prompt_id", "purpose", "arm", "drawn_with", "created_at"]
    list_filter = ["purpose", "arm"]


@admin.register(WeakSpot)
class WeakSpotAdmin(ReadOnlyAdmin):
    """Where models do badly."""

    list_display = ["model", "prompt_id", "tag", "weakness", "judged", "version_number"]
    list_select_related = ["model"]


@admin.register(SamplingState)
class SamplingStateAdmin(ReadOnlyAdmin):
    """What sampling remembers."""

    list_display = ["model", "train_pairs", "eval_pairs", "spots_at"]
    list_select_related = ["model"]


@admin.register(Import)
class ImportAdmin(ReadOnlyAdmin):
    """Files of preference pairs."""

    list_display = ["pk", "model", "filename", "state", "created", "rejected_count", "created_at"]
    list_filter = ["state"]
    list_select_related = ["model"]


@admin.register(ImportedPreference)
class ImportedPreferenceAdmin(ReadOnlyAdmin):
    """What files say."""

    list_display = ["pair_id", "source_id", "line", "target"]


@admin.register(QueueEntry)
class QueueEntryAdmin(ReadOnlyAdmin):
    """Pairs that wait."""

    list_display = ["pair_id", "model", "priority", "wanted", "leased"]
    list_select_related = ["model"]


@admin.register(Assignment)
class AssignmentAdmin(ReadOnlyAdmin):
    """Leases."""

    list_display = ["uuid", "labeler", "assigned_at", "expires_at", "closed_at", "is_on_top"]
    list_select_related = ["labeler"]


@admin.register(Judgement)
class JudgementAdmin(ReadOnlyAdmin):
    """What labelers said."""

    list_display = ["assignment_id", "revision", "verdict", "is_late", "judged_at"]
    list_filter = ["verdict"]


@admin.register(Drop)
class DropAdmin(ReadOnlyAdmin):
    """Completions that were not queued."""

    list_display = ["version", "reason", "count"]
    list_select_related = ["version__model"]


@admin.register(ComparisonDrop)
class ComparisonDropAdmin(ReadOnlyAdmin):
    """Prompts that comparisons go without."""

    list_display = ["comparison_id", "prompt_id", "reason"]
    list_filter = ["reason"]


@admin.register(Gold)
class GoldAdmin(ReadOnlyAdmin):
    """Gold pairs."""

    list_display = ["pk", "model", "original_id", "made_by", "made_at", "retired_at"]
    list_select_related = ["model", "made_by"]


@admin.register(Repeat)
class RepeatAdmin(ReadOnlyAdmin):
    """Repeats."""

    list_display = ["pk", "model", "original_id", "made_at"]
    list_select_related = ["model"]


@admin.register(Flag)
class FlagAdmin(ReadOnlyAdmin):
    """Flags."""

    list_display = ["pk", "model", "note", "raised_at", "taken_back_at", "resolved_at"]
    list_select_related = ["model"]
