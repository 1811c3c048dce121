"""Models, versions and aliases over REST."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import actions, queries
from models_registry.api.filters import VersionFilter
from models_registry.api.serializers import (
    AliasIn,
    ModelOut,
    MoveOut,
    VersionOut,
    VersionWholeOut,
)
from models_registry.lookup import model_for
from models_registry.models import Alias, ModelVersion, RegisteredModel
from pairloop.lib.api import ListView, MemberView, Request


class ModelsView(ListView):
    """The models that somebody may see."""

    permission_classes = [IsAuthenticated]
    queryset = RegisteredModel.objects.none()

    @extend_schema(responses=ModelOut(many=True))
    def get(self, request: Request) -> Response:
        """List one's models; a labeler learns no more than their names."""
        page = self.page_of(queries.models_of(request.user))
        return self.get_paginated_response([_model_out(model, request) for model in page])


class ModelView(MemberView):
    """One model."""

    @extend_schema(responses=ModelOut)
    def get(self, request: Request, slug: str) -> Response:
        """Describe a model; a labeler learns no more than its name."""
        return Response(_model_out(model_for(request.user, slug), request))


class VersionsView(ListView):
    """The versions of a model."""

    queryset = ModelVersion.objects.none()
    filterset_class = VersionFilter

    @extend_schema(responses=VersionOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List a model's versions, the newest first."""
        page = self.page_of(queries.versions_of(model_for(request.user, slug)))
        return self.get_paginated_response(VersionOut(page, many=True).data)


class VersionView(APIView):
    """One version."""

    @extend_schema(responses=VersionWholeOut)
    def get(self, request: Request, slug: str, number: int) -> Response:
        """Describe a version, with metrics and card."""
        version = _version_for(model_for(request.user, slug), number)
        return Response(VersionWholeOut(version).data)


class AliasView(APIView):
    """A name that points at a version."""

    @extend_schema(request=AliasIn, responses=MoveOut)
    def post(self, request: Request, slug: str, name: str) -> Response:
        """Point `champion` at another version; the other aliases move by themselves."""
        model = model_for(request.user, slug)
        asked = AliasIn(data=request.data)
        asked.is_valid(raise_exception=True)
        if name != Alias.CHAMPION:
            raise actions.AliasFollowsPolicy(
                f"{name} is not moved by hand: the sampler follows the model's policy, the challenger the "
                "newest round. Move champion instead."
            )
        move = actions.version_promote(
            model=model,
            version=_version_for(model, asked.validated_data["version"]),
            by=request.user,
            reason=asked.validated_data["reason"],
            now=timezone.now(),
        )
        return Response(MoveOut(move).data)


def _version_for(model: RegisteredModel, number: int) -> ModelVersion:
    try:
        return queries.versions_of(model).get(number=number)
    except ModelVersion.DoesNotExist as missing:
        raise Http404 from missing


def _model_out(model: RegisteredModel, request: Request) -> dict[str, Any]:
    named = {"slug": model.slug, "name": model.name}
    if not request.user.is_staff:
        return dict(ModelOut(named).data)
    aliases = model.aliases.select_related("version").order_by("name")
    whole = named | {
        "state": model.state,
        "failure": model.failure,
        "base_source": model.base_source,
        "base_sha256": model.base_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "chat_template_sha256": model.chat_template_sha256,
        "parameters": model.parameters,
        "context_length": model.context_length,
        "lora": {
            "rank": model.lora_rank,
            "alpha": model.lora_alpha,
            "target_modules": model.lora_target_modules,
        },
        "aliases": {alias.name: alias.version.number for alias in aliases},
        "created_at": model.created_at,
    }
    return dict(ModelOut(whole).data)
