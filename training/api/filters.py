"""By what lists of rounds may be filtered; nothing else is."""

from __future__ import annotations

from django_filters import ChoiceFilter, OrderingFilter
from django_filters.rest_framework import FilterSet

from training.models import Round


class RoundFilter(FilterSet):  # type: ignore[misc]
    """Rounds."""

    state = ChoiceFilter(choices=Round.State.choices)
    ordering = OrderingFilter(fields=["number"])

    class Meta:
        """Fields."""

        model = Round
        fields = ["state"]
