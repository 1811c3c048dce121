"""Models, versions and aliases over REST."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import actions, queries
from models_registry.lookup import model_for
from models_registry.models import Alias, AliasMove, ModelVersion, RegisteredModel
from pairloop.lib.api import MemberView, Request


class AliasIn(serializers.Serializer[Any]):
    """Where an alias should point, and why."""

    version = serializers.IntegerField(min_value=0)
    reason = serializers.CharField(max_length=1000, allow_blank=True, default="")


class ModelsView(MemberView):
    """The models that somebody may see."""

    def get(self, request: Request) -> Response:
        """List them; a labeler learns no more than their names."""
        return Response([_model_out(model, request) for model in queries.models_of(request.user)])


class ModelView(MemberView):
    """One model."""

    def get(self, request: Request, slug: str) -> Response:
        """Describe it; a labeler learns no more than its name."""
        return Response(_model_out(model_for(request.user, slug), request))


class VersionsView(APIView):
    """The versions of a model."""

    def get(self, request: Request, slug: str) -> Response:
        """List them, the newest first."""
        versions = queries.versions_of(model_for(request.user, slug))
        return Response([_version_out(version) for version in versions])


class VersionView(APIView):
    """One version."""

    def get(self, request: Request, slug: str, number: int) -> Response:
        """Describe it, with metrics and card."""
        version = _version_for(model_for(request.user, slug), number)
        return Response(_version_out(version) | {"metrics": version.metrics, "card": version.card})


class AliasView(APIView):
    """A name that points at a version."""

    def post(self, request: Request, slug: str, name: str) -> Response:
        """Point `champion` at another version."""
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
        return Response(_move_out(move))


def _version_for(model: RegisteredModel, number: int) -> ModelVersion:
    try:
        return queries.versions_of(model).get(number=number)
    except ModelVersion.DoesNotExist as missing:
        raise Http404 from missing


def _model_out(model: RegisteredModel, request: Request) -> dict[str, Any]:
    named = {"slug": model.slug, "name": model.name}
    if not request.user.is_staff:
        return named
    aliases = model.aliases.select_related("version").order_by("name")
    return named | {
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


def _version_out(version: ModelVersion) -> dict[str, Any]:
    return {
        "number": version.number,
        "kind": version.kind,
        "state": version.state,
        "parent": version.parent.number if version.parent else None,
        "aliases": sorted(alias.name for alias in version.aliases.all()),
        "sha256": version.sha256,
        "size_bytes": version.size_bytes,
        "created_at": version.created_at,
        "served": [
            {"engine": serving.engine, "loaded_at": serving.loaded_at, "canary": serving.canary}
            for serving in version.servings.all()
        ],
    }


def _move_out(move: AliasMove) -> dict[str, Any]:
    return {
        "name": move.name,
        "from_version": move.from_version.number if move.from_version else None,
        "version": move.to_version.number,
        "moved_by": move.moved_by.get_username() if move.moved_by else None,
        "moved_at": move.moved_at,
        "reason": move.reason,
    }
