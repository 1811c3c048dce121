"""A labeler's own judgements, what became of them, and their own numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from annotate import answers
from annotate import queries as judging
from annotate.models import Assignment, Judgement, Verdict
from models_registry.lookup import model_for
from pairloop.lib.http import Request, render_part
from pairloop.pages.history_numbers import numbers_of
from pairloop.pages.history_queries import SPANS, Place, Wanted, history_page, row_of


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter as a link."""

    label: str
    #: What stands behind the "?".
    query: str
    is_chosen: bool


@never_cache
@require_safe
def history(request: Request, slug: str) -> HttpResponse:
    """List what somebody judged, the newest first; their numbers stand above the first page."""
    model = model_for(request.user, slug)
    wanted = _wanted(request)
    before = Place.read(request.GET.get("before", ""))
    context = {
        "model": model,
        "page": history_page(model=model, labeler=request.user, wanted=wanted, before=before),
        "numbers": None if before else numbers_of(model=model, labeler=request.user),
        "filters": _filters(wanted),
        "is_filtered": wanted != Wanted(),
        "query": _query(wanted),
    }
    return render(request, "pages/history.html", context)


@never_cache
@require_safe
def history_judgement(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Show one of somebody's own judgements with prompt and answers as they were; htmx gets only these."""
    model = model_for(request.user, slug)
    try:
        assignment = judging.assignment_of(labeler=request.user, uuid=uuid)
    except Assignment.DoesNotExist as missing:
        raise Http404 from missing
    if assignment.pair.prompt.model != model:
        raise Http404
    try:
        row = row_of(model=model, labeler=request.user, uuid=uuid)
    except Judgement.DoesNotExist:
        # Taken back, or not judged yet: there it can be.
        return redirect("judgement", slug, uuid)
    context = {"model": model, "row": row, "panes": answers.panes(assignment, "text")}
    return render_part(request, "pages/history_judgement.html", "answers", context)


def _wanted(request: Request) -> Wanted:
    """Return which judgements are asked for; what nobody knows is no filter."""
    verdict, span = request.GET.get("verdict", ""), request.GET.get("span", "")
    return Wanted(
        verdict=verdict if verdict in Verdict.values else "",
        has_note=request.GET.get("note") == "1",
        is_flagged=request.GET.get("flagged") == "1",
        span=span if span in SPANS else "",
    )


def _filters(wanted: Wanted) -> list[tuple[str, list[Chip]]]:
    """Return the filters by what they are about."""
    said = [("", "All"), *Verdict.choices]
    noted, flagged = wanted.has_note, wanted.is_flagged
    return [
        ("When", [_chip(wanted, title, span=span) for span, (title, _) in SPANS.items()]),
        ("What I said", [_chip(wanted, title, verdict=verdict) for verdict, title in said]),
        (
            "With",
            [
                _toggle("A note", replace(wanted, has_note=not noted), is_chosen=noted),
                _toggle("A flag", replace(wanted, is_flagged=not flagged), is_chosen=flagged),
            ],
        ),
    ]


def _chip(wanted: Wanted, label: str, **change: Any) -> Chip:
    changed = replace(wanted, **change)
    return Chip(label=label, query=_query(changed), is_chosen=changed == wanted)


def _toggle(label: str, changed: Wanted, *, is_chosen: bool) -> Chip:
    """Return a chip that takes its filter away again when it is chosen."""
    return Chip(label=label, query=_query(changed), is_chosen=is_chosen)


def _query(wanted: Wanted) -> str:
    fields = {
        "verdict": wanted.verdict,
        "note": "1" if wanted.has_note else "",
        "flagged": "1" if wanted.is_flagged else "",
        "span": wanted.span,
    }
    return urlencode({name: value for name, value in fields.items() if value})
