"""What labelers were told, version by version: each judgement keeps the number that it followed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import User
from django.db.models import Count, Max

from annotate import queries
from annotate.models import Guidelines, JudgingPolicy
from models_registry.models import RegisteredModel


def version_keep(policy: JudgingPolicy, *, before: str, by: User | None, now: datetime) -> None:
    """Give a policy's new text the next number, and keep it; the one before, too, where nobody did.

    The caller holds the policy's row. `before` is the text that it had.
    """
    was = policy.guidelines_version
    # A model begins with its first text, which comes with its policy and not from an editor.
    Guidelines.objects.get_or_create(
        model=policy.model,
        version=was,
        defaults={"text": before, "created_at": policy.model.created_at},
    )
    policy.guidelines_version = was + 1
    policy.save(update_fields=["guidelines_version"])
    Guidelines.objects.create(
        model=policy.model, version=was + 1, text=policy.guidelines, created_by=by, created_at=now
    )


def version_shown(
    model_id: int, *, present: int, changed_at: datetime | None, shown_at: datetime | None
) -> int:
    """Return the number of the guidelines that stood when a pair was shown; `present` when nobody knows.

    `changed_at` is when the policy changed last. One query, and only for what was on a screen at that moment.
    """
    if shown_at is None or changed_at is None or shown_at >= changed_at:
        return present
    stood = Guidelines.objects.filter(
        model=model_id, version__lte=present, created_at__lte=shown_at
    )
    found: int | None = stood.aggregate(last=Max("version"))["last"]
    return found or present


@dataclass(frozen=True, slots=True)
class Edition:
    """One version of the guidelines."""

    version: int
    text: str
    since: datetime
    #: Who wrote it; empty when it came with the model.
    by: str


def editions_of(model: RegisteredModel) -> list[Edition]:
    """Return every version of a model's guidelines that is kept, the newest first, which is the present one.

    Texts of before they were kept are gone, so numbers may be missing. Two queries.
    """
    policy = queries.policy_of(model)
    rows = Guidelines.objects.filter(model=model).select_related("created_by").order_by("-version")
    found = [
        Edition(
            version=row.version,
            text=row.text,
            since=row.created_at,
            by=row.created_by.get_username() if row.created_by else "",
        )
        for row in rows
    ]
    if not found or found[0].version < policy.guidelines_version:
        # It came with the model, and nobody has changed it yet.
        first = Edition(policy.guidelines_version, policy.guidelines, model.created_at, "")
        found.insert(0, first)
    return found


def judged_under(model: RegisteredModel) -> dict[int, int]:
    """Count a model's standing judgements by the version of the guidelines that they followed.

    Looks at each of them: for pages that are seldom asked for.
    """
    rows = (
        queries.judgements_standing()
        .filter(assignment__pair__prompt__model=model)
        .values_list("guidelines_version")
        .annotate(Count("pk"))
        .order_by()
    )
    return dict(rows)
