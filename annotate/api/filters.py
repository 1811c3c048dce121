"""By what prompts, judgements and triples may be filtered; nothing else is."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, QuerySet
from django_filters import CharFilter, ChoiceFilter, OrderingFilter
from django_filters.rest_framework import FilterSet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError

from annotate import triples
from annotate.models import Judgement, Pair, Prompt, Split, Verdict
from models_registry.models import Comparison
from pairloop.lib.api import Request, number_filter, query_check

#: What the database's columns hold.
MOST_ID = 2**63 - 1
MOST_NUMBER = 2**31 - 1


class PromptFilter(FilterSet):  # type: ignore[misc]
    """Prompts."""

    split = ChoiceFilter(choices=Split.choices)
    tag = CharFilter(field_name="tags", method="tagged", max_length=50)
    ordering = OrderingFilter(fields=["id"])

    class Meta:
        """Fields."""

        model = Prompt
        fields = ["split"]

    def tagged(self, rows: QuerySet[Any], _name: str, tag: str) -> QuerySet[Any]:
        """Select those with a tag."""
        return rows.filter(tags__contains=[tag])


class JudgementFilter(FilterSet):  # type: ignore[misc]
    """Judgements."""

    verdict = ChoiceFilter(choices=Verdict.choices)
    labeler = CharFilter(field_name="assignment__labeler__username", max_length=150)
    since = number_filter(most=MOST_ID, field_name="id", lookup_expr="gt")
    ordering = OrderingFilter(fields=["id"])

    class Meta:
        """Fields."""

        model = Judgement
        fields = ["verdict"]


class ComparisonFilter(FilterSet):  # type: ignore[misc]
    """Comparisons."""

    state = ChoiceFilter(choices=Comparison.State.choices)
    ordering = OrderingFilter(fields=["id"])

    class Meta:
        """Fields."""

        model = Comparison
        fields = ["state"]


class TripleFilter(FilterSet):  # type: ignore[misc]
    """Pairs that make a triple."""

    since = number_filter(most=MOST_ID, method="judged_since")
    tag = CharFilter(method="tagged", max_length=50)
    version = number_filter(most=MOST_NUMBER, method="written_by")

    class Meta:
        """Nothing but the above."""

        model = Pair
        fields: list[str] = []

    def judged_since(self, rows: QuerySet[Pair], _name: str, judgement: int) -> QuerySet[Pair]:
        """Select those that a later judgement than this one speaks of."""
        return triples.judged_since(rows, judgement=int(judgement))

    def tagged(self, rows: QuerySet[Pair], _name: str, tag: str) -> QuerySet[Pair]:
        """Select those whose prompt has a tag."""
        return rows.filter(prompt__tags__contains=[tag])

    def written_by(self, rows: QuerySet[Pair], _name: str, number: int) -> QuerySet[Pair]:
        """Select those of which a version wrote at least one side."""
        return rows.filter(Q(first__version__number=number) | Q(second__version__number=number))


#: For the API's description.
TRIPLE_PARAMETERS = [
    OpenApiParameter("since", {"type": "integer", "minimum": 0, "maximum": MOST_ID}),
    OpenApiParameter("tag", {"type": "string", "maxLength": 50}),
    OpenApiParameter("version", {"type": "integer", "minimum": 0, "maximum": MOST_NUMBER}),
]


def triple_pairs(request: Request, pairs: QuerySet[Pair], *, others: list[str]) -> QuerySet[Pair]:
    """Filter by the request's query; `others` are the names that somebody else reads."""
    query_check(request, known=[*TripleFilter.base_filters, *others])
    asked = TripleFilter(request.query_params, queryset=pairs, request=request)
    if not asked.is_valid():
        raise ValidationError(asked.errors)
    found: QuerySet[Pair] = asked.qs
    return found
