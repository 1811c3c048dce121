"""Rounds over REST; for staff."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.utils import timezone
from rest_framework import status
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import queries as registered
from models_registry.lookup import model_for
from models_registry.models import ModelVersion
from pairloop.lib.api import Request
from training import actions, queries
from training.api.serializers import RoundIn
from training.downloads import adapter_file, card_file
from training.models import Round


class Rounds(APIView):
    """A model's rounds."""

    def get(self, request: Request, slug: str) -> Response:
        """List them, the newest first."""
        model = model_for(request.user, slug)
        return Response(
            {
                "triples_waiting": queries.triples_waiting(model),
                "rounds": [queries.as_dict(round_) for round_ in queries.rounds_of(model)],
            }
        )

    def post(self, request: Request, slug: str) -> Response:
        """Start one on the triples that wait."""
        model = model_for(request.user, slug)
        wishes = RoundIn(data=request.data)
        wishes.is_valid(raise_exception=True)
        round_ = actions.round_start(
            model=model, by=request.user, now=timezone.now(), overrides=wishes.validated_data
        )
        return Response(
            {"number": round_.number, "state": round_.state}, status=status.HTTP_201_CREATED
        )


class OneRound(APIView):
    """One round."""

    def get(self, request: Request, slug: str, number: int) -> Response:
        """Tell its state, progress, numbers and version."""
        return Response(queries.as_dict(_round_for(request, slug, number)))


class CancelRound(APIView):
    """The end of one round."""

    def post(self, request: Request, slug: str, number: int) -> Response:
        """End it, if it still trains."""
        round_ = _round_for(request, slug, number)
        actions.round_cancel(round_=round_, now=timezone.now())
        return Response(queries.as_dict(_round_for(request, slug, number)))


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

    def get(self, request: Request, slug: str, number: int) -> HttpResponse:
        """Write it from what is known now."""
        return card_file(_version_for(request, slug, number))


class VersionAdapter(APIView):
    """A version's adapter as a PEFT folder."""

    content_negotiation_class = FileOrJSON

    def get(self, request: Request, slug: str, number: int) -> StreamingHttpResponse:
        """Stream it as a zip, once its files were found to be what was registered."""
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
