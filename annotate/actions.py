"""Everything that is written about prompts, completions, pairs, assignments and judgements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.contrib.auth.models import User

from annotate.models import Assignment, Judgement
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused


class QueueEmpty(Refused):
    """No pair waits for you right now."""

    code = "queue_empty"


def pair_assign(*, model: RegisteredModel, labeler: User, now: datetime) -> Assignment:
    """Lease the next pair to a labeler, or return the lease they already hold. Raises QueueEmpty."""
    raise NotImplementedError


def judgement_record(
    *,
    assignment: Assignment,
    verdict: str,
    now: datetime,
    reasons: Sequence[str] = (),
    note: str = "",
    active_ms: int = 0,
) -> Judgement:
    """Record what a labeler said. Repeated for the same assignment, it returns the first judgement."""
    raise NotImplementedError
