"""Tokens of the REST API, and what the brakes on requests and on wrong passwords count."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from knox.models import AbstractAuthToken


class Token(AbstractAuthToken):  # type: ignore[misc]
    """Lets a program act as its user until it expires; only a digest of it is stored.

    `token_key`, its first characters, is what pages and commands call it by.
    """

    name = models.CharField(max_length=50)
    is_read_only = models.BooleanField(default=False)
    #: To the hour: more would cost a write with each request.
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(fields=["user", "name"], name="token_name_once_per_user"),
            models.UniqueConstraint(fields=["token_key"], name="token_key_once"),
            models.CheckConstraint(condition=Q(expiry__isnull=False), name="token_expires"),
            models.CheckConstraint(condition=~Q(name=""), name="token_has_name"),
        ]

    def __str__(self) -> str:
        """Return whose it is and how it begins."""
        return f"{self.user}: {self.token_key}"


class RequestCount(models.Model):
    """How many requests to the REST API a user made in one minute: one row a user, never more."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="+"
    )
    minute = models.DateTimeField()
    requests = models.PositiveIntegerField()

    def __str__(self) -> str:
        """Return the count."""
        return f"{self.user_id}: {self.requests}"


class WrongPasswords(models.Model):
    """Logins that somebody tried under a name from an address, whether there is such a user or not."""

    #: As it was typed, without case.
    name = models.CharField(max_length=150)
    address = models.CharField(max_length=64)
    tries = models.PositiveIntegerField()
    #: When they are forgotten.
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        """Database rules."""

        constraints = [
            models.UniqueConstraint(
                fields=["name", "address"], name="wrong_passwords_counted_once"
            ),
        ]

    def __str__(self) -> str:
        """Return the count."""
        return f"{self.name} from {self.address}: {self.tries}"
