"""Comparisons over REST: ask the labelers, see what they proved, stop asking."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.response import Response
from rest_framework.views import APIView

from annotate import comparisons, queries
from annotate.api.filters import ComparisonFilter
from annotate.queries import ComparisonProgress, ComparisonReport
from models_registry.actions import comparison_close
from models_registry.lookup import model_for
from models_registry.models import Comparison, ModelVersion, RegisteredModel
from models_registry.queries import comparison_of, comparisons_of, version_numbered
from models_registry.stats.evidence import Check, Rate
from pairloop.lib.api import ListView, Request

#: The largest number that the database's column holds.
LARGEST = 2**31 - 1


class ComparisonIn(serializers.Serializer[Any]):
    """Which two versions, by their numbers, and on how many held-out prompts."""

    candidate = serializers.IntegerField(min_value=0, max_value=LARGEST)
    incumbent = serializers.IntegerField(min_value=0, max_value=LARGEST)
    prompts = serializers.IntegerField(min_value=0, max_value=LARGEST)


class RateOut(serializers.Serializer[Rate]):
    """A share with its 95 % interval."""

    value = serializers.FloatField()
    low = serializers.FloatField()
    high = serializers.FloatField()


class CheckOut(serializers.Serializer[Check]):
    """One condition of a promotion and how it stands."""

    name = serializers.CharField()
    ok = serializers.BooleanField()
    value = serializers.FloatField()
    bound = serializers.FloatField()
    sentence = serializers.CharField()


class ProgressOut(serializers.Serializer[ComparisonProgress]):
    """How far the labelers are."""

    judged = serializers.IntegerField()
    waiting = serializers.IntegerField()
    #: Why prompts make no pair -> how many.
    left_out = serializers.DictField(child=serializers.IntegerField())


class ComparisonOut(serializers.Serializer[ComparisonReport]):
    """A comparison and what it proves."""

    id = serializers.IntegerField(source="comparison.pk")
    candidate = serializers.IntegerField(source="comparison.candidate.number")
    incumbent = serializers.IntegerField(source="comparison.incumbent.number")
    prompts = serializers.IntegerField(source="comparison.budget")
    state = serializers.ChoiceField(choices=Comparison.State.choices, source="comparison.state")
    created_by = serializers.CharField(
        source="comparison.created_by.username", default=None, allow_null=True
    )
    created_at = serializers.DateTimeField(source="comparison.created_at")
    ended_at = serializers.DateTimeField(source="comparison.ended_at", allow_null=True)
    progress = ProgressOut()
    wins = serializers.IntegerField(source="evidence.wins")
    losses = serializers.IntegerField(source="evidence.losses")
    ties = serializers.IntegerField(source="evidence.ties")
    both_bad = serializers.IntegerField(source="evidence.both_bad")
    win_rate = RateOut(source="evidence.win_rate", allow_null=True)
    evidence = serializers.FloatField(source="evidence.evidence")
    #: Decisive votes after which the present win rate is proved.
    votes_needed = serializers.IntegerField(source="evidence.votes_needed", allow_null=True)
    passed = serializers.BooleanField(source="evidence.passed")
    checks = CheckOut(many=True, source="evidence.checks")
    #: Why other conditions could not be checked.
    unchecked = serializers.ListField(child=serializers.CharField(), source="evidence.left_out")


class ComparisonsView(ListView):
    """The comparisons of a model."""

    queryset = Comparison.objects.none()
    filterset_class = ComparisonFilter

    @extend_schema(responses=ComparisonOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List a model's comparisons, the newest first."""
        page = self.page_of(comparisons_of(model_for(request.user, slug)))
        return self.get_paginated_response([_out(comparison) for comparison in page])

    @extend_schema(request=ComparisonIn, responses={201: ComparisonOut})
    def post(self, request: Request, slug: str) -> Response:
        """Ask the labelers to compare two versions on some of the held-out prompts."""
        model = model_for(request.user, slug)
        asked = ComparisonIn(data=request.data)
        asked.is_valid(raise_exception=True)
        comparison = comparisons.comparison_open(
            model=model,
            candidate=_version_for(model, asked.validated_data["candidate"]),
            incumbent=_version_for(model, asked.validated_data["incumbent"]),
            budget=asked.validated_data["prompts"],
            by=request.user,
        )
        return Response(_out(comparison), status=status.HTTP_201_CREATED)


class ComparisonView(APIView):
    """One comparison."""

    @extend_schema(responses=ComparisonOut)
    def get(self, request: Request, slug: str, pk: int) -> Response:
        """Tell what a comparison proves so far."""
        return Response(_out(_comparison_for(request, slug, pk)))


class ComparisonCloseView(APIView):
    """The end of a comparison."""

    @extend_schema(request=None, responses=ComparisonOut)
    def post(self, request: Request, slug: str, pk: int) -> Response:
        """Stop asking the labelers; one that has ended stays as it is."""
        comparison_close(comparison=_comparison_for(request, slug, pk), now=timezone.now())
        return Response(_out(_comparison_for(request, slug, pk)))


def _out(comparison: Comparison) -> dict[str, Any]:
    return dict(ComparisonOut(queries.comparison_report(comparison)).data)


def _comparison_for(request: Request, slug: str, pk: int) -> Comparison:
    try:
        return comparison_of(model=model_for(request.user, slug), pk=pk)
    except Comparison.DoesNotExist as missing:
        raise Http404 from missing


def _version_for(model: RegisteredModel, number: int) -> ModelVersion:
    try:
        return version_numbered(model=model, number=number)
    except ModelVersion.DoesNotExist as missing:
        raise Http404 from missing
