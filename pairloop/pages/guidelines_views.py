"""What a model's labelers are told, and were told before."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from annotate.guidelines import Edition, editions_of, judged_under
from models_registry.lookup import model_for
from pairloop.lib import differences
from pairloop.lib.http import Request

#: Versions of a page: each is a text of up to 20,000 characters, twice.
PAGE = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One version as the page shows it."""

    edition: Edition
    #: Whether it is what labelers are told now.
    is_present: bool
    #: Standing judgements that followed it; None: not for whom asks.
    judged: int | None
    #: The version before, when its text is kept, and both texts with their differences marked.
    before: Edition | None
    marked: tuple[SafeString, SafeString] | None


@never_cache
@require_safe
def guidelines(request: Request, slug: str) -> HttpResponse:
    """Show the guidelines that stand and all earlier ones, each with what it changed."""
    model = model_for(request.user, slug)
    editions = editions_of(model)
    page = Paginator(editions, PAGE).get_page(request.GET.get("page"))
    # How much others judge is staff's business; counting looks at every judgement, too.
    judged = judged_under(model) if request.user.is_staff else None
    followed = {one.version: before for one, before in pairwise(editions)}
    context = {
        "model": model,
        "page": page,
        "present": editions[0],
        "rows": [
            _row(one, followed.get(one.version), judged, is_present=one == editions[0])
            for one in page
        ],
    }
    return render(request, "pages/guidelines.html", context)


def _row(
    edition: Edition, before: Edition | None, judged: dict[int, int] | None, *, is_present: bool
) -> Row:
    return Row(
        edition=edition,
        is_present=is_present,
        judged=None if judged is None else judged.get(edition.version, 0),
        before=before,
        marked=differences.mark(before.text, edition.text) if before else None,
    )
