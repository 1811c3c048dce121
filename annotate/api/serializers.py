"""What the REST API takes and gives about assignments, judgements and triples."""

from __future__ import annotations

from rest_framework import serializers

from annotate.forms import MOST_MS
from annotate.models import Assignment, Completion, Judgement, Verdict


class CompletionOut(serializers.ModelSerializer[Completion]):
    """A completion as a labeler sees it: nothing but its text."""

    class Meta:
        """Fields."""

        model = Completion
        fields = ["text"]


class AssignmentOut(serializers.ModelSerializer[Assignment]):
    """A pair to judge. Nothing in it tells who wrote what."""

    id = serializers.UUIDField(source="uuid")
    prompt = serializers.JSONField(source="pair.prompt.messages")
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
    """What a labeler says."""

    verdict = serializers.ChoiceField(choices=Verdict.choices)
    reasons = serializers.ListField(
        child=serializers.CharField(max_length=40), max_length=20, default=list
    )
    note = serializers.CharField(max_length=10_000, allow_blank=True, default="")
    active_ms = serializers.IntegerField(min_value=0, max_value=MOST_MS, default=0)


class JudgementOut(serializers.ModelSerializer[Judgement]):
    """What stands after a labeler said it."""

    assignment = serializers.UUIDField(source="assignment_id")

    class Meta:
        """Fields."""

        model = Judgement
        fields = ["assignment", "revision", "verdict", "reasons", "note", "active_ms", "judged_at"]


class TriplesIn(serializers.Serializer[None]):
    """Which triples, under which keys."""

    ties = serializers.BooleanField(default=False)
    keys = serializers.ChoiceField(
        choices=["chosen_rejected", "good_bad"], default="chosen_rejected"
    )
