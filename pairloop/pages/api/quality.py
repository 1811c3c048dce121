"""How a model's pairs are judged, over REST, and the gold pairs that staff makes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.http import Http404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView

from annotate import checks, quality
from annotate.models import Gold, Pair, Verdict
from annotate.quality import Disagreement, LabelerQuality, Report
from models_registry.lookup import model_for
from models_registry.stats.agreement import Agreement, Share
from pairloop.lib.api import Request, query_check
from pairloop.pages.quality_queries import MOST_GOLD
from pairloop.pages.quality_views import LARGEST, USUAL_DAYS

MOST_DAYS = 365
#: Of the pairs on which labelers disagree; the page has the rest.
MOST_DISAGREEMENTS = 100


class DaysIn(serializers.Serializer[Any]):
    """How far back to look."""

    days = serializers.IntegerField(min_value=1, max_value=MOST_DAYS, default=USUAL_DAYS)


class AgreementOut(serializers.Serializer[Agreement]):
    """A number about agreement; `value` is null where it is undefined, and `why` says why."""

    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    units = serializers.IntegerField()
    raters = serializers.IntegerField()
    values = serializers.IntegerField()
    why = serializers.CharField(allow_blank=True)


class ShareOut(serializers.Serializer[Share]):
    """A share of n with its 95 % interval."""

    value = serializers.FloatField()
    low = serializers.FloatField()
    high = serializers.FloatField()
    n = serializers.IntegerField()


class LabelerQualityOut(serializers.Serializer[LabelerQuality]):
    """One labeler's numbers; shares are null until there are thirty judgements."""

    labeler = serializers.CharField(source="labeler.username")
    judged = serializers.IntegerField()
    today = serializers.IntegerField()
    median_s = serializers.FloatField(allow_null=True)
    left = ShareOut(allow_null=True)
    tie = ShareOut(allow_null=True)
    both_bad = ShareOut(allow_null=True)
    agreement = ShareOut(allow_null=True)
    consistency = ShareOut(allow_null=True)
    flips = ShareOut(allow_null=True)
    gold = ShareOut(allow_null=True)
    fast = ShareOut(allow_null=True)


class DisagreementOut(serializers.Serializer[Disagreement]):
    """A pair on which labelers disagree; `distance` is 4 where both are sure of the opposite."""

    pair = serializers.IntegerField()
    distance = serializers.IntegerField()
    judgements = serializers.IntegerField()


class DayOut(serializers.Serializer[Any]):
    """How much was judged on a day."""

    day = serializers.DateField()
    judgements = serializers.IntegerField()


class VersionShareOut(serializers.Serializer[Any]):
    """How many judgements are of pairs to train on that a version wrote; null: no version did."""

    version = serializers.IntegerField(allow_null=True)
    judgements = serializers.IntegerField()


class QualityOut(serializers.Serializer[Report]):
    """How a model's newest judgements were made. Advice: no number here stops anybody."""

    since = serializers.DateTimeField()
    judgements = serializers.SerializerMethodField()
    is_cut = serializers.BooleanField()
    alpha_nominal = AgreementOut(source="nominal")
    alpha_ordinal = AgreementOut(source="ordinal")
    raw_agreement = AgreementOut(source="raw")
    left = ShareOut(allow_null=True)
    consistency = ShareOut(allow_null=True)
    flips = ShareOut(allow_null=True)
    gold = ShareOut(source="gold_share", allow_null=True)
    verdicts = serializers.SerializerMethodField()
    days = serializers.SerializerMethodField()
    versions = serializers.SerializerMethodField()
    labelers = LabelerQualityOut(source="people", many=True)
    disagreements = serializers.SerializerMethodField()

    def get_judgements(self, report: Report) -> int:
        """Return how many were looked at."""
        return len(report.said)

    def get_verdicts(self, report: Report) -> dict[str, int]:
        """Return how often each verdict was given."""
        return dict.fromkeys(Verdict.values, 0) | report.verdicts

    @extend_schema_field(DayOut(many=True))
    def get_days(self, report: Report) -> list[dict[str, object]]:
        """Return the judgements of each day."""
        return [{"day": day.isoformat(), "judgements": count} for day, count in report.by_day]

    @extend_schema_field(VersionShareOut(many=True))
    def get_versions(self, report: Report) -> list[dict[str, object]]:
        """Return the judgements by the version that wrote the pair."""
        return [{"version": number, "judgements": n} for number, n in report.versions]

    @extend_schema_field(DisagreementOut(many=True))
    def get_disagreements(self, report: Report) -> list[dict[str, object]]:
        """Return the strongest disagreements."""
        strongest = report.disagreements[:MOST_DISAGREEMENTS]
        return [dict(DisagreementOut(one).data) for one in strongest]


class QualityView(APIView):
    """How a model's pairs are judged."""

    @extend_schema(
        parameters=[
            OpenApiParameter("days", OpenApiTypes.INT, description="How far back, 1 to 365; 30.")
        ],
        responses=QualityOut,
    )
    def get(self, request: Request, slug: str) -> Response:
        """Return agreement, sides, consistency and the labelers' numbers of the newest judgements."""
        model = model_for(request.user, slug)
        query_check(request, known=["days"])
        asked = DaysIn(data=request.query_params)
        asked.is_valid(raise_exception=True)
        now = timezone.now()
        since = now - timedelta(days=asked.validated_data["days"])
        return Response(QualityOut(quality.report_of(model, since=since, now=now)).data)


class GoldIn(serializers.Serializer[Any]):
    """Which pair, and which of its completions is the better one."""

    pair = serializers.IntegerField(min_value=1, max_value=LARGEST)
    expected = serializers.IntegerField(min_value=1, max_value=LARGEST)
    why = serializers.CharField(max_length=2000, allow_blank=True, default="")


class GoldOut(serializers.ModelSerializer[Gold]):
    """A gold pair."""

    id = serializers.IntegerField(source="pk")
    original = serializers.IntegerField(source="original_id")
    expected = serializers.IntegerField(source="expected_id")
    made_by = serializers.CharField(source="made_by.username")

    class Meta:
        """Fields."""

        model = Gold
        fields = ["id", "original", "expected", "why", "made_by", "made_at", "retired_at"]


class GoldsView(APIView):
    """The gold pairs of a model."""

    @extend_schema(responses=GoldOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List the newest gold pairs, those that are served first."""
        model = model_for(request.user, slug)
        rows = quality.gold_rows(model, (), limit=MOST_GOLD)
        return Response(GoldOut([row.gold for row in rows], many=True).data)

    @extend_schema(request=GoldIn, responses={201: GoldOut})
    def post(self, request: Request, slug: str) -> Response:
        """Make a gold pair from a judged one; `expected` is the id of the better completion."""
        model = model_for(request.user, slug)
        said = GoldIn(data=request.data)
        said.is_valid(raise_exception=True)
        given = said.validated_data
        pairs = Pair.objects.select_related("prompt").filter(prompt__model=model)
        pair = pairs.filter(pk=given["pair"]).first()
        if pair is None:
            raise ValidationError({"pair": "There is no such pair of this model."})
        gold = checks.gold_make(
            pair=pair, expected=given["expected"], why=given["why"], by=request.user,
            now=timezone.now(),
        )  # fmt: skip
        return Response(GoldOut(gold).data, status=status.HTTP_201_CREATED)


class GoldView(APIView):
    """One gold pair."""

    @extend_schema(responses={204: None})
    def delete(self, request: Request, slug: str, pk: int) -> Response:
        """Serve a gold pair no more; what was said about it is kept."""
        try:
            gold = checks.gold_of(model=model_for(request.user, slug), pk=pk)
        except Gold.DoesNotExist as missing:
            raise Http404 from missing
        checks.gold_retire(gold=gold, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
