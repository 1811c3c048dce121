"""What the REST API takes and gives about the playground."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotate.prompts import PromptRefused
from models_registry.models import Play
from pairloop.pages.play_reports import Side, sides_of
from pairloop.pages.play_views import question_of


class PlayIn(serializers.Serializer[Any]):
    """A question, and which two versions answer it."""

    #: The client's own, so that a request sent twice asks once.
    id = serializers.UUIDField(required=False)
    prompt = serializers.CharField(trim_whitespace=False)
    system = serializers.CharField(allow_blank=True, default="", trim_whitespace=False)
    #: Their numbers; left out: the sampler against the champion, or else against v0.
    versions = serializers.ListField(
        child=serializers.IntegerField(min_value=0), min_length=2, max_length=2, required=False
    )
    blind = serializers.BooleanField(default=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Make messages of the texts."""
        try:
            return attrs | {"messages": question_of(attrs["prompt"], attrs["system"])}
        except PromptRefused as refused:
            raise serializers.ValidationError({"prompt": str(refused)}) from refused


class PickIn(serializers.Serializer[Any]):
    """Which answer is better."""

    pick = serializers.ChoiceField(choices=Play.Pick.choices)


class SideOut(serializers.Serializer[Side]):
    """One answer; who wrote it is null until it may be known."""

    text = serializers.CharField()
    finish_reason = serializers.CharField()
    version = serializers.IntegerField(source="version.number", default=None, allow_null=True)
    tokens = serializers.IntegerField(allow_null=True)
    seconds = serializers.FloatField(allow_null=True)


class PlayOut(serializers.Serializer[Play]):
    """A question and what became of it."""

    id = serializers.UUIDField(source="uuid")
    messages = serializers.JSONField()
    #: The newer first, whichever side it is on.
    versions = serializers.SerializerMethodField()
    blind = serializers.BooleanField(source="is_blind")
    asked_by = serializers.CharField(source="asked_by.username")
    state = serializers.CharField()
    failure = serializers.CharField()
    left = serializers.SerializerMethodField()
    right = serializers.SerializerMethodField()
    pick = serializers.CharField()
    picked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    def get_versions(self, play: Play) -> list[int]:
        """Return both numbers."""
        return sorted((version.number for version in play.versions), reverse=True)

    @extend_schema_field(SideOut)
    def get_left(self, play: Play) -> dict[str, Any]:
        """Return the left answer."""
        return dict(SideOut(sides_of(play)[0]).data)

    @extend_schema_field(SideOut)
    def get_right(self, play: Play) -> dict[str, Any]:
        """Return the right answer."""
        return dict(SideOut(sides_of(play)[1]).data)
