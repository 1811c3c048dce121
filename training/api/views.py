"""Rounds over REST; for staff."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import queries as registered
from models_registry.lookup import model_for
from models_registry.models import ModelVersion
from pairloop.lib.api import ListView, Request
from pairloop.lib.schema import REFUSED
from training import actions, queries
from training.api.filters import RoundFilter
from training.api.serializers import RoundIn, RoundOut, StartedOut
from training.downloads import adapter_file, card_file
from training.models import Round


class Rounds(ListView):
    """A model's rounds."""

    queryset = Round.objects.none()
    filterset_class = RoundFilter

    @extend_schema(responses=RoundOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List a model's rounds, the newest first. `triples_waiting` are those for the next one."""
        model = model_for(request.user, slug)
        told = queries.rounds_told(self.page_of(queries.rounds_of(model)))
        answer = self.get_paginated_response(RoundOut(told, many=True).data)
        answer.data["triples_waiting"] = queries.triples_waiting(model)
        return answer

    @extend_schema(request=RoundIn, responses={201: StartedOut})
    def post(self, request: Request, slug: str) -> Response:
        """Start a round on the triples that wait; what is left out is as the model's policy says."""
        model = model_for(request.user, slug)
        wishes = RoundIn(data=request.data)
        wishes.is_valid(raise_exception=True)
        round_ = actions.round_start(
            model=model, by=request.user, now=timezone.now(), overrides=wishes.validated_data
        )
        return Response(StartedOut(round_).data, status=status.HTTP_201_CREATED)


class OneRound(APIView):
    """One round."""

    @extend_schema(responses=RoundOut)
    def get(self, request: Request, slug: str, number: int) -> Response:
        """Tell a round's state, progress, numbers and version."""
        return _told(_round_for(request, slug, number))


class CancelRound(APIView):
    """The end of one round."""

    @extend_schema(request=None, responses=RoundOut)
    def post(self, request: Request, slug: str, number: int) -> Response:
        """End a round, if it still trains."""
        round_ = _round_for(request, slug, number)
        actions.round_cancel(round_=round_, now=timezone.now())
        return _told(_round_for(request, slug, number))


def _told(round_: Round) -> Response:
    (told,) = queries.rounds_told([round_])
    return Response(RoundOut(told).data)


class FileOrJSON(DefaultContentNegotiation):
    """Files have one type each, whatever a client accepts; errors beside them are JSON."""

    def select_renderer(
        self, request: Any, renderers: Any, format_suffix: str | None = None
    ) -> tuple[Any, str]:
        """Take the first one, which renders errors alone."""
        return renderers[0], renderers[0].media_type


class VersionCard(APIView):
    """What a version is, as a Hugging Face model card."""

    content_negotiation_class = FileOrJSON

    @extend_schema(responses={(200, "text/markdown"): OpenApiTypes.STR})
    def get(self, request: Request, slug: str, number: int) -> HttpResponse:
        """Write a version's model card from what is known now."""
        return card_file(_version_for(request, slug, number))


class VersionAdapter(APIView):
    """A version's adapter as a PEFT folder."""

    content_negotiation_class = FileOrJSON

    @extend_schema(
        responses={
            (200, "application/zip"): OpenApiTypes.BINARY,
            (409, "application/json"): REFUSED,
        }
    )
    def get(self, request: Request, slug: str, number: int) -> StreamingHttpResponse:
        """Stream a version's PEFT folder as a zip, once its files were found to be what was registered."""
        return adapter_file(_version_for(request, slug, number))


def _version_for(request: Request, slug: str, number: int) -> ModelVersion:
    try:
        return registered.version_numbered(model=model_for(request.user, slug), number=number)
    except ModelVersion.DoesNotExist as missing:
        raise Http404 from missing


def _round_for(request: Request, slug: str, number: int) -> Round:
    try:
        return queries.round_of(model=model_for(request.user, slug), number=number)
    except Round.DoesNotExist as missing:
        raise Http404 from missing
