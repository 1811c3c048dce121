"""Django admin: to look at; everything is written by actions."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.models import Group, User

from models_registry.models import (
    Alias,
    AliasMove,
    Comparison,
    Membership,
    ModelVersion,
    Outcome,
    PersonChange,
    Play,
    RegisteredModel,
    Serving,
)
from pairloop.lib.admin import ReadOnlyAdmin

# Django's own pages would change people without leaving a row in PersonChange.
admin.site.unregister([User, Group])


@admin.register(User)
class UserAdmin(ReadOnlyAdmin):
    """People; their page in Pairloop changes them."""

    list_display = ["username", "first_name", "is_staff", "is_active", "last_login"]
    fields = [
        "username",
        "first_name",
        "email",
        "is_staff",
        "is_active",
        "last_login",
        "date_joined",
    ]


@admin.register(PersonChange)
class PersonChangeAdmin(ReadOnlyAdmin):
    """What was done to whom."""

    list_display = ["made_at", "person", "kind", "model", "made_by"]
    list_select_related = ["person", "model", "made_by"]


@admin.register(RegisteredModel)
class RegisteredModelAdmin(ReadOnlyAdmin):
    """Models."""

    list_display = ["slug", "name", "state", "base_source", "lora_rank"]


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    """Who may judge which model."""

    list_display = ["model", "user", "created_at"]
    list_filter = ["model"]
    list_select_related = ["model", "user"]


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    """Versions."""

    list_display = ["__str__", "kind", "state", "sha256", "created_at"]
    list_select_related = ["model"]


@admin.register(Alias)
class AliasAdmin(ReadOnlyAdmin):
    """Aliases."""

    list_display = ["model", "name", "version"]
    list_select_related = ["model", "version__model"]


@admin.register(AliasMove)
class AliasMoveAdmin(ReadOnlyAdmin):
    """Who moved an alias."""

    list_display = ["moved_at", "name", "from_version", "to_version", "moved_by", "reason"]
    list_select_related = ["from_version__model", "to_version__model", "moved_by"]


@admin.register(Serving)
class ServingAdmin(ReadOnlyAdmin):
    """What engines serve."""

    list_display = ["version", "engine", "loaded_at"]
    list_select_related = ["version__model"]


@admin.register(Comparison)
class ComparisonAdmin(ReadOnlyAdmin):
    """Comparisons."""

    list_display = ["__str__", "state", "budget", "created_at"]
    list_select_related = ["candidate__model", "incumbent__model"]


@admin.register(Outcome)
class OutcomeAdmin(ReadOnlyAdmin):
    """Outcomes of comparisons."""

    list_display = ["comparison", "kind", "winner", "recorded_at", "withdrawn_at"]
    list_select_related = [
        "comparison__candidate__model",
        "comparison__incumbent__model",
        "winner__model",
    ]


@admin.register(Play)
class PlayAdmin(ReadOnlyAdmin):
    """Questions of the playground; its own page tells who answered, once that may be known."""

    list_display = ["uuid", "model", "asked_by", "state", "pick", "created_at"]
    list_select_related = ["model", "asked_by"]
    exclude = ["left_version", "right_version"]
