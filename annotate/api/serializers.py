"""What the REST API takes and gives about assignments, judgements and triples."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotate import exports
from annotate.actions import ImportReport
from annotate.forms import LONGEST_NOTE, MOST_MS
from annotate.models import (
    CANNOT,
    REASONS,
    Assignment,
    Completion,
    Import,
    Judgement,
    Prompt,
    Split,
    Verdict,
    reasons_of,
)


class MessageOut(serializers.Serializer[Any]):
    """One turn of a prompt."""

    role = serializers.ChoiceField(choices=["system", "user", "assistant"])
    content = serializers.CharField(allow_blank=True)


class RejectedLineOut(serializers.Serializer[Any]):
    """A line that was left out of an import, and why."""

    line = serializers.IntegerField()
    reason = serializers.CharField()


class PromptsImportOut(serializers.Serializer[ImportReport]):
    """What became of the lines of an import of prompts."""

    created = serializers.IntegerField()
    duplicates = serializers.IntegerField()
    rejected = serializers.SerializerMethodField()

    @extend_schema_field(RejectedLineOut(many=True))
    def get_rejected(self, report: ImportReport) -> list[dict[str, object]]:
        """Return number and reason of every line that was left out."""
        return [{"line": number, "reason": reason} for number, reason in report.rejected]


class PromptOut(serializers.ModelSerializer[Prompt]):
    """A prompt; `refusal` is why the engine does not take it."""

    messages = MessageOut(many=True)
    split = serializers.ChoiceField(choices=Split.choices)

    class Meta:
        """Fields."""

        model = Prompt
        fields = ["id", "messages", "split", "tags", "refusal", "created_at"]


class AttackIn(serializers.Serializer[Any]):
    """A prompt that a labeler writes."""

    prompt = serializers.CharField(max_length=100_000)


class AttackOut(AttackIn):
    """A prompt that is being answered; in about so many seconds its pair is the labeler's next assignment."""

    seconds = serializers.IntegerField()


class CompletionOut(serializers.ModelSerializer[Completion]):
    """A completion as a labeler sees it: nothing but its text."""

    class Meta:
        """Fields."""

        model = Completion
        fields = ["text"]


class AssignmentOut(serializers.ModelSerializer[Assignment]):
    """A pair to judge. Nothing in it tells who wrote what."""

    id = serializers.UUIDField(source="uuid")
    prompt = MessageOut(source="pair.prompt.messages", many=True)
    left = CompletionOut()
    right = CompletionOut()
    guidelines_version = serializers.SerializerMethodField()

    class Meta:
        """Fields."""

        model = Assignment
        fields = ["id", "prompt", "left", "right", "guidelines_version", "expires_at"]

    def get_guidelines_version(self, assignment: Assignment) -> int:
        """Return the version of the guidelines to judge by."""
        version: int = self.context["guidelines_version"]
        return version


class JudgementIn(serializers.Serializer[Judgement]):
    """What a labeler says. Reasons go with a preferred answer, or, their own ones, with `cannot_judge`."""

    verdict = serializers.ChoiceField(choices=Verdict.choices)
    reasons = serializers.ListField(
        child=serializers.ChoiceField(
            choices=[*REASONS, *CANNOT],
            error_messages={"invalid_choice": "Pairloop knows no such reason."},
        ),
        max_length=20,
        default=list,
    )
    note = serializers.CharField(max_length=LONGEST_NOTE, allow_blank=True, default="")
    active_ms = serializers.IntegerField(min_value=0, max_value=MOST_MS, default=0)
    revise = serializers.BooleanField(
        default=False,
        help_text="Whether this replaces what you said of the pair before, as a new revision.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse reasons that say nothing about the verdict; a page leaves them out, a program is told."""
        fitting = reasons_of(attrs["verdict"])
        if strange := [reason for reason in attrs["reasons"] if reason not in fitting]:
            use = f"Use {', '.join(fitting)}." if fitting else "Send none."
            raise serializers.ValidationError(
                {"reasons": f"{strange[0]} does not go with {attrs['verdict']}. {use}"}
            )
        return attrs


class JudgementOut(serializers.ModelSerializer[Judgement]):
    """What stands after a labeler said it."""

    assignment = serializers.UUIDField(source="assignment_id")

    class Meta:
        """Fields."""

        model = Judgement
        fields = ["assignment", "revision", "verdict", "reasons", "note", "active_ms", "judged_at"]


class StandingOut(serializers.ModelSerializer[Judgement]):
    """A judgement as staff sees it."""

    assignment = serializers.UUIDField(source="assignment_id")
    pair = serializers.IntegerField(source="assignment.pair_id")
    labeler = serializers.CharField(source="assignment.labeler.username")
    #: The completion that won; none when nobody did.
    winner = serializers.IntegerField(source="winner_id", allow_null=True)

    class Meta:
        """Fields."""

        model = Judgement
        fields = [
            "id", "assignment", "pair", "labeler", "revision", "verdict", "winner", "reasons", "note",
            "active_ms", "guidelines_version", "is_late", "judged_at",
        ]  # fmt: skip


class TriplesIn(serializers.Serializer[None]):
    """Which triples, under which keys."""

    ties = serializers.BooleanField(default=False)
    keys = serializers.ChoiceField(choices=list(exports.KEYS), default="chosen_rejected")


class ImportOut(serializers.ModelSerializer[Import]):
    """How far an import of preference pairs is, and what came of it."""

    rejected = serializers.SerializerMethodField()
    progress = serializers.FloatField()

    class Meta:
        """Fields."""

        model = Import
        fields = [
            "id", "filename", "format", "state", "progress", "lines", "created", "duplicates", "held_out",
            "rejected_count", "rejected", "failure", "created_at", "ended_at",
        ]  # fmt: skip

    @extend_schema_field(RejectedLineOut(many=True))
    def get_rejected(self, found: Import) -> list[dict[str, object]]:
        """Return number and reason of the first lines that were left out."""
        return [{"line": number, "reason": reason} for number, reason in found.rejected]
