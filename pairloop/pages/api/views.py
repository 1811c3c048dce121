"""The playground over REST: ask, look, pick."""

from __future__ import annotations

import random
from collections.abc import Sequence
from uuid import UUID, uuid4

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import play_queries, plays
from models_registry.lookup import model_for
from models_registry.models import ModelVersion, RegisteredModel
from pairloop.lib.api import Request
from pairloop.pages.api.serializers import PickIn, PlayIn, PlayOut
from pairloop.pages.play_reports import sampling_of
from pairloop.pages.play_views import play_for


class PlaysView(APIView):
    """The questions of the playground."""

    @extend_schema(request=PlayIn, responses={201: PlayOut, 200: PlayOut})
    def post(self, request: Request, slug: str) -> Response:
        """Ask two versions; the answers follow at its own address. Sent twice with the same id, it is asked once."""
        model = model_for(request.user, slug)
        said = PlayIn(data=request.data)
        said.is_valid(raise_exception=True)
        given = said.validated_data
        play, is_new = plays.play_ask(
            model=model,
            by=request.user,
            uuid=given.get("id") or uuid4(),
            messages=given["messages"],
            versions=_versions(model, given.get("versions")),
            is_blind=given["blind"],
            sampling=sampling_of(model),
            chance=random.SystemRandom(),
        )
        code = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
        return Response(PlayOut(play).data, status=code)


class PlayView(APIView):
    """One question."""

    @extend_schema(responses=PlayOut)
    def get(self, request: Request, slug: str, uuid: UUID) -> Response:
        """Describe a question of the playground; who wrote which answer stays null until the pick, unless it was not blind."""
        return Response(PlayOut(play_for(model_for(request.user, slug), uuid)).data)


class PlayPickView(APIView):
    """Which answer its asker found better."""

    @extend_schema(request=PickIn, responses=PlayOut)
    def post(self, request: Request, slug: str, uuid: UUID) -> Response:
        """Pick the better answer; the first pick stands."""
        play = play_for(model_for(request.user, slug), uuid)
        said = PickIn(data=request.data)
        said.is_valid(raise_exception=True)
        picked = plays.play_pick(
            play=play, by=request.user, pick=said.validated_data["pick"], now=timezone.now()
        )
        return Response(PlayOut(picked).data)


def _versions(
    model: RegisteredModel, numbers: Sequence[int] | None
) -> tuple[ModelVersion, ModelVersion]:
    """Return the two that were asked for, or the default two. Raises ValidationError."""
    playable = play_queries.versions_playable(model)
    if numbers is None:
        pair = play_queries.pair_default(playable)
        if pair is None:
            raise ValidationError({"versions": "There are no two verified versions yet."})
        return pair
    by_number = {version.number: version for version in playable}
    if missing := [number for number in numbers if number not in by_number]:
        raise ValidationError({"versions": f"There is no verified version {missing[0]}."})
    first, second = (by_number[number] for number in numbers)
    return first, second
