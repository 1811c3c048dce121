"""What the REST API takes and gives about rounds."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from pairloop.lib.schema import STRICT
from training import presets
from training.models import Reference, Round


@extend_schema_serializer(extensions={STRICT: True})
class RoundIn(serializers.Serializer[None]):
    """One round's wishes; what is left out is taken from the model's policy."""

    #: Which loss. Another one than the policy's comes with its own β.
    preset = serializers.ChoiceField(required=False, choices=presets.CHOICES)
    #: null: the preset's own.
    beta = serializers.FloatField(required=False, allow_null=True, min_value=0.001, max_value=10)
    learning_rate = serializers.FloatField(required=False, min_value=1e-7, max_value=1)
    epochs = serializers.IntegerField(required=False, min_value=1, max_value=20)
    batch_pairs = serializers.IntegerField(required=False, min_value=1, max_value=512)
    reference = serializers.ChoiceField(required=False, choices=Reference.choices)
    replay_share = serializers.FloatField(required=False, min_value=0, max_value=0.9)
    ties = serializers.BooleanField(required=False)
    most_new = serializers.IntegerField(required=False, min_value=0, max_value=1_000_000)

    def to_internal_value(self, data: object) -> dict[str, object]:
        """Refuse names that would be ignored."""
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            raise serializers.ValidationError(
                {name: ["This is no setting of a round."] for name in unknown}
            )
        found: dict[str, object] = super().to_internal_value(data)
        return found


class StartedOut(serializers.ModelSerializer[Round]):
    """A round that waits for the trainer."""

    class Meta:
        """Fields."""

        model = Round
        fields = ["number", "state"]


class RolesOut(serializers.Serializer[Any]):
    """How many of a round's triples are new, how many were trained on before."""

    new = serializers.IntegerField()
    replay = serializers.IntegerField()


class FailureOut(serializers.Serializer[Any]):
    """Why a round failed."""

    code = serializers.CharField(allow_blank=True)
    detail = serializers.CharField()


class RoundOut(serializers.Serializer[Any]):
    """A round: how far it is and what came of it."""

    number = serializers.IntegerField()
    state = serializers.ChoiceField(choices=Round.State.choices)
    #: What the trainer is at; empty when it is at nothing.
    stage = serializers.CharField(allow_blank=True)
    progress = serializers.FloatField(min_value=0, max_value=1)
    eta_s = serializers.IntegerField(allow_null=True)
    parent = serializers.IntegerField()  # type: ignore[assignment]
    reference = serializers.ChoiceField(choices=Reference.choices)
    version = serializers.IntegerField(allow_null=True)
    triples = RolesOut()
    #: The last value of each number that the trainer told.
    metrics = serializers.DictField(child=serializers.FloatField(allow_null=True))
    holdout = serializers.DictField()
    evaluation = serializers.DictField()
    failure = FailureOut(allow_null=True)
    started_by = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
