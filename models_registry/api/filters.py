"""By what lists of versions may be filtered; nothing else is."""

from __future__ import annotations

from django_filters import ChoiceFilter, OrderingFilter
from django_filters.rest_framework import FilterSet

from models_registry.models import ModelVersion


class VersionFilter(FilterSet):  # type: ignore[misc]
    """Versions."""

    state = ChoiceFilter(choices=ModelVersion.State.choices)
    kind = ChoiceFilter(choices=ModelVersion.Kind.choices)
    ordering = OrderingFilter(fields=["number"])

    class Meta:
        """Fields."""

        model = ModelVersion
        fields = ["state", "kind"]
