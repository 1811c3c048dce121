"""Everything that is written about models, members, versions and aliases."""

from __future__ import annotations

from datetime import datetime

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import ProtectedError

from models_registry import bases
from models_registry.models import (
    Alias,
    AliasMove,
    Membership,
    ModelVersion,
    RegisteredModel,
)
from pairloop.lib.errors import Refused


class ModelExists(Refused):
    """A model with this slug is registered already."""

    code = "model_exists"


class ModelInvalid(Refused):
    """The model's fields are not valid."""

    code = "model_invalid"


@transaction.atomic
def model_prepare(*, slug: str, name: str, source: str, lora_rank: int = 16) -> RegisteredModel:
    """Announce a model whose base is about to be made. Raises ModelExists once its base is there."""
    model = RegisteredModel.objects.select_for_update().filter(slug=slug).first()
    if model is None:
        model = RegisteredModel(slug=slug)
    elif model.is_ready:
        raise ModelExists(f"A model {slug} is registered already; choose another slug.")
    model.name, model.base_source = name, source
    model.lora_rank, model.lora_alpha = lora_rank, 2 * lora_rank
    model.state, model.failure = RegisteredModel.State.PREPARING, ""
    try:
        model.full_clean()
    except ValidationError as error:
        raise ModelInvalid(" ".join(error.messages)) from error
    model.save()
    return model


@transaction.atomic
def base_register(*, model: RegisteredModel, base: bases.Base, now: datetime) -> ModelVersion:
    """Record a base that is in the store as v0, and let `sampler` and `champion` point at it."""
    locked = RegisteredModel.objects.select_for_update().get(pk=model.pk)
    if locked.is_ready:
        raise ModelExists(f"A model {model} is registered already; choose another slug.")
    locked.base_path = base.sha256
    locked.base_sha256 = base.base_sha256
    locked.tokenizer_sha256 = base.tokenizer_sha256
    locked.chat_template_sha256 = base.chat_template_sha256
    locked.parameters = base.parameters
    locked.context_length = base.context_length
    locked.state = RegisteredModel.State.READY
    locked.save()
    version = ModelVersion.objects.create(
        model=locked,
        number=0,
        kind=ModelVersion.Kind.BASE,
        artifact_path=base.sha256,
        sha256=base.sha256,
        size_bytes=base.size_bytes,
        # It was loaded and has answered a prompt before it came here.
        state=ModelVersion.State.VERIFIED,
    )
    for name in (Alias.SAMPLER, Alias.CHAMPION):
        alias_move(model=locked, name=name, version=version, by=None, reason="The base.", now=now)
    return version


def base_refused(*, model: RegisteredModel, reason: str) -> None:
    """Forget a model that nobody waits for; otherwise keep why its base could not be made, for their page."""
    if not model.memberships.exists():
        try:
            with transaction.atomic():
                RegisteredModel.objects.exclude(state=RegisteredModel.State.READY).get(
                    pk=model.pk
                ).delete()
        except (ProtectedError, RegisteredModel.DoesNotExist):
            pass  # It has prompts, or it became ready meanwhile.
        else:
            return
    RegisteredModel.objects.filter(pk=model.pk).exclude(state=RegisteredModel.State.READY).update(
        state=RegisteredModel.State.FAILED, failure=reason
    )


@transaction.atomic
def alias_move(
    *,
    model: RegisteredModel,
    name: str,
    version: ModelVersion,
    by: User | None,
    reason: str,
    now: datetime,
) -> AliasMove:
    """Point an alias at a version and keep who, when and why."""
    alias = Alias.objects.select_for_update().filter(model=model, name=name).first()
    before = alias.version if alias else None
    Alias.objects.update_or_create(model=model, name=name, defaults={"version": version})
    return AliasMove.objects.create(
        model=model,
        name=name,
        from_version=before,
        to_version=version,
        moved_by=by,
        reason=reason,
        moved_at=now,
    )


def member_add(*, model: RegisteredModel, user: User) -> Membership:
    """Let a user judge pairs of a model."""
    membership, _ = Membership.objects.get_or_create(model=model, user=user)
    return membership
