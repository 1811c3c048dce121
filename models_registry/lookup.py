"""What the views and API views of every app look up first; what somebody may not see does not exist."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.http import Http404

from models_registry.models import RegisteredModel
from models_registry.queries import model_of


def model_for(user: User, slug: str) -> RegisteredModel:
    """Return a model that the user may see. Raises Http404."""
    try:
        return model_of(user=user, slug=slug)
    except RegisteredModel.DoesNotExist as missing:
        raise Http404 from missing


def model_for_staff(user: User, slug: str) -> RegisteredModel:
    """Return a model to whoever looks after it: labelers stay blind, also to what there is. Raises Http404."""
    if not user.is_staff:
        raise Http404
    return model_for(user, slug)
