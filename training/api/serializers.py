"""What an engineer may send about rounds; it only validates."""

from __future__ import annotations

from rest_framework import serializers

from training.models import Reference


class RoundIn(serializers.Serializer[None]):
    """One round's wishes; what is left out is taken from the model's policy."""

    beta = serializers.FloatField(required=False, min_value=0.001, max_value=10)
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
