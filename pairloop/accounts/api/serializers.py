"""What the REST API takes and gives about one's own tokens."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from pairloop.accounts.actions import MOST_DAYS
from pairloop.accounts.models import Token


class TokenIn(serializers.Serializer[Any]):
    """A new token's name, time and scope."""

    name = serializers.CharField(max_length=50)
    days = serializers.IntegerField(min_value=1, max_value=MOST_DAYS, default=90)
    is_read_only = serializers.BooleanField(default=False)


class TokenOut(serializers.ModelSerializer[Token]):
    """A token without its secret. `last_used_at` is known to the hour."""

    key = serializers.CharField(source="token_key")
    created_at = serializers.DateTimeField(source="created")
    expires_at = serializers.DateTimeField(source="expiry")

    class Meta:
        """Fields."""

        model = Token
        fields = ["key", "name", "is_read_only", "created_at", "expires_at", "last_used_at"]


class MadeOut(TokenOut):
    """A token with its secret, this once."""

    token = serializers.SerializerMethodField()

    class Meta(TokenOut.Meta):
        """Fields."""

        fields = [*TokenOut.Meta.fields, "token"]

    def get_token(self, token: Token) -> str:
        """Return the secret."""
        secret: str = self.context["secret"]
        return secret
