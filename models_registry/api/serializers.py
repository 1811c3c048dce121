"""What the REST API takes and gives about models, versions and aliases."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from models_registry.models import AliasMove, ModelVersion, RegisteredModel, Serving


class LoraOut(serializers.Serializer[Any]):
    """The shape of a model's adapters."""

    rank = serializers.IntegerField()
    alpha = serializers.IntegerField()
    target_modules = serializers.ListField(child=serializers.CharField())


class ModelOut(serializers.Serializer[Any]):
    """A registered model. Labelers get slug and name, staff all of it."""

    slug = serializers.CharField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=RegisteredModel.State.choices, required=False)
    failure = serializers.CharField(required=False, allow_blank=True)
    base_source = serializers.CharField(required=False)
    base_sha256 = serializers.CharField(required=False, allow_blank=True)
    tokenizer_sha256 = serializers.CharField(required=False, allow_blank=True)
    chat_template_sha256 = serializers.CharField(required=False, allow_blank=True)
    parameters = serializers.IntegerField(required=False)
    context_length = serializers.IntegerField(required=False)
    lora = LoraOut(required=False)
    #: Alias -> number of the version behind it.
    aliases = serializers.DictField(child=serializers.IntegerField(), required=False)
    created_at = serializers.DateTimeField(required=False)


class ServingOut(serializers.ModelSerializer[Serving]):
    """Where a version is loaded, and what its check there found."""

    class Meta:
        """Fields."""

        model = Serving
        fields = ["engine", "loaded_at", "canary"]


class VersionOut(serializers.ModelSerializer[ModelVersion]):
    """A version in a list."""

    parent = serializers.IntegerField(source="parent.number", allow_null=True)  # type: ignore[assignment]
    aliases = serializers.SerializerMethodField()
    served = ServingOut(source="servings", many=True)

    class Meta:
        """Fields."""

        model = ModelVersion
        fields = [
            "number", "kind", "state", "parent", "aliases", "sha256", "size_bytes", "created_at", "served",
        ]  # fmt: skip

    def get_aliases(self, version: ModelVersion) -> list[str]:
        """Return the names that point at it."""
        return sorted(alias.name for alias in version.aliases.all())


class VersionWholeOut(VersionOut):
    """A version with metrics and card."""

    class Meta(VersionOut.Meta):
        """Fields."""

        fields = [*VersionOut.Meta.fields, "metrics", "card"]


class AliasIn(serializers.Serializer[Any]):
    """Where an alias should point, and why."""

    version = serializers.IntegerField(min_value=0, max_value=2**31 - 1)
    reason = serializers.CharField(max_length=1000, allow_blank=True, default="")


class MoveOut(serializers.ModelSerializer[AliasMove]):
    """What an alias pointed at, what it points at now, by whom and why."""

    from_version = serializers.IntegerField(source="from_version.number", allow_null=True)
    version = serializers.IntegerField(source="to_version.number")
    moved_by = serializers.CharField(source="moved_by.username", allow_null=True)

    class Meta:
        """Fields."""

        model = AliasMove
        fields = ["name", "from_version", "version", "moved_by", "moved_at", "reason"]
