"""A labeler's own judgements over REST, and what became of them."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django_filters import BooleanFilter, ChoiceFilter, IsoDateTimeFilter
from django_filters.rest_framework import FilterSet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response

from annotate.models import Judgement, Verdict
from models_registry.lookup import model_for
from pairloop.lib.api import ListView, Request
from pairloop.pages.history_fates import Doing, Fate
from pairloop.pages.history_queries import Row, flags_standing, judgements_of, rows_of

KINDS = {
    "waits": "waits for a round",
    "frozen": "in the snapshot of a round that has not ended",
    "used": "a round trained on it",
    "no_triple": "nothing is trained on it",
    "measures": "it measures, and is never trained on",
}


class DoingOut(serializers.Serializer[Doing]):
    """How the version did that a round made."""

    version = serializers.IntegerField(source="version.number")
    champion = serializers.BooleanField(source="is_champion")
    #: Phrases, each with interval and n.
    figures = serializers.ListField(child=serializers.CharField())
    trouble = serializers.CharField()


class FateOut(serializers.Serializer[Fate]):
    """What became of a judgement."""

    state = serializers.ChoiceField(choices=list(KINDS.items()), source="kind")
    detail = serializers.CharField(source="said")
    #: What a change would do.
    change = serializers.CharField()
    round = serializers.IntegerField(source="round.number", default=None, allow_null=True)
    result = DoingOut(source="doing", allow_null=True)
    #: Later rounds that repeated it.
    repeated_in = serializers.SerializerMethodField()

    @extend_schema_field({"type": "array", "items": {"type": "integer"}})
    def get_repeated_in(self, fate: Fate) -> list[int]:
        """Return the rounds' numbers."""
        return [round_.number for round_ in fate.replays]


class OwnJudgementOut(serializers.Serializer[Row]):
    """One's own judgement, and what became of it. Nothing in it tells who wrote what."""

    assignment = serializers.UUIDField(source="judgement.assignment_id")
    #: The beginning of the prompt's last message.
    prompt = serializers.CharField(source="beginning")
    verdict = serializers.ChoiceField(choices=Verdict.choices, source="judgement.verdict")
    reasons = serializers.ListField(child=serializers.CharField(), source="judgement.reasons")
    note = serializers.CharField(source="judgement.note")
    revision = serializers.IntegerField(source="judgement.revision")
    #: How often it was changed.
    changes = serializers.IntegerField()
    flagged = serializers.BooleanField(source="is_flagged")
    late = serializers.BooleanField(source="is_late")
    #: Of all revisions together.
    active_ms = serializers.IntegerField()
    guidelines_version = serializers.IntegerField(source="judgement.guidelines_version")
    judged_at = serializers.DateTimeField(source="judgement.judged_at")
    became = FateOut(source="fate")


class OwnJudgementFilter(FilterSet):  # type: ignore[misc]
    """Own judgements."""

    verdict = ChoiceFilter(choices=Verdict.choices)
    note = BooleanFilter(method="noted")
    flagged = BooleanFilter(method="flags_raised")
    judged_after = IsoDateTimeFilter(field_name="assignment__closed_at", lookup_expr="gt")

    class Meta:
        """Fields."""

        model = Judgement
        fields = ["verdict"]

    def noted(self, rows: QuerySet[Any], _name: str, is_noted: bool) -> QuerySet[Any]:
        """Select those with a note, or without."""
        return rows.exclude(note="") if is_noted else rows.filter(note="")

    def flags_raised(
        self,
        rows: QuerySet[Any],
        _name: str,
        is_raised: bool,
    ) -> QuerySet[Any]:
        """Select those with a flag that was not taken back, or without."""
        flagged = Exists(flags_standing().filter(assignment=OuterRef("assignment")))
        return rows.filter(flagged if is_raised else ~flagged)


class HistoryView(ListView):
    """What somebody judged themselves."""

    permission_classes = [IsAuthenticated]
    queryset = Judgement.objects.none()
    filterset_class = OwnJudgementFilter

    @extend_schema(responses=OwnJudgementOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List your own judgements of a model, the newest first, with what became of each."""
        model = model_for(request.user, slug)
        page = self.page_of(judgements_of(model=model, labeler=request.user))
        rows: Any = rows_of(model, page)
        return self.get_paginated_response(OwnJudgementOut(rows, many=True).data)
