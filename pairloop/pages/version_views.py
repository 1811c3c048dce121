"""The versions of a model, and which of them is the champion."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from annotate.models import Pair
from models_registry import actions
from models_registry.lookup import model_for_staff
from models_registry.models import ModelVersion, RegisteredModel
from models_registry.queries import champion_before, champion_moves, champion_of
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request
from pairloop.pages import version_queries
from pairloop.pages.compare_queries import finding_for_promotion
from training import downloads, learned

#: Each is a prompt and two answers long.
TRIPLES_A_PAGE = 20


class ReasonForm(forms.Form):
    """Why the champion moves. Whether one is given is the action's to say."""

    reason = forms.CharField(max_length=1000, required=False)


class RollbackForm(ReasonForm):
    """A reason, and the champion that the page showed."""

    champion = forms.IntegerField(min_value=0)


@never_cache
@require_safe
def versions(request: Request, slug: str) -> HttpResponse:
    """Draw a model's versions, what they learned and how they measure, and the history of its champion."""
    model = model_for_staff(request.user, slug)
    context = {
        "model": model,
        "page": version_queries.history_of(model),
        "history": champion_moves(model),
    }
    return render(request, "pages/versions.html", context)


@never_cache
@require_safe
def version(request: Request, slug: str, number: int) -> HttpResponse:
    """Show everything that is known about one version."""
    return _page(request, model_for_staff(request.user, slug), number)


@never_cache
@require_safe
def version_triples(request: Request, slug: str, number: int) -> HttpResponse:
    """List the triples that a version learned from."""
    model = model_for_staff(request.user, slug)
    row = _row_for(model, number)
    paginator = Paginator(learned.items_of(row.version), TRIPLES_A_PAGE)
    context = {
        "model": model,
        "version": row.version,
        "page": paginator.get_page(request.GET.get("page")),
        "learned": learned.learned_by(row.version),
    }
    return render(request, "pages/version_triples.html", context)


@never_cache
@require_safe
def version_card(request: Request, slug: str, number: int) -> HttpResponse:
    """Hand out a version's card."""
    row = _row_for(model_for_staff(request.user, slug), number)
    return downloads.card_file(row.version)


@never_cache
@require_safe
def version_adapter(request: Request, slug: str, number: int) -> HttpResponseBase:
    """Hand out a version's adapter."""
    model = model_for_staff(request.user, slug)
    row = _row_for(model, number)
    try:
        return downloads.adapter_file(row.version)
    except Refused as refused:
        return _page(request, model, number, not_exported=refused, status=409)


@never_cache
@require_safe
def pair(request: Request, slug: str, number: int) -> HttpResponse:
    """Follow a pair from its judgements to the versions that learned from it."""
    model = model_for_staff(request.user, slug)
    try:
        trail = learned.trail_of(model=model, pair_id=number)
    except Pair.DoesNotExist as missing:
        raise Http404 from missing
    return render(request, "pages/pair.html", {"model": model, "trail": trail})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def version_promote(request: Request, slug: str, number: int) -> HttpResponse:
    """Make a version the champion."""
    model = model_for_staff(request.user, slug)
    row = _row_for(model, number)
    if request.method != "POST":
        # A login in between comes back with GET.
        return redirect("version", slug, number)
    form = ReasonForm(request.POST)
    if not form.is_valid():
        return _page(request, model, number, form=form, status=422)
    try:
        actions.version_promote(
            model=model, version=row.version, by=request.user,
            reason=form.cleaned_data["reason"], now=timezone.now(),
        )  # fmt: skip
    except Refused as refused:
        return _page(request, model, number, form=form, refused=refused, status=409)
    messages.success(request, f"{row.version.label} is the champion now.")
    return redirect("versions", slug)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def versions_rollback(request: Request, slug: str) -> HttpResponse:
    """Make the version champion again that it was before."""
    model = model_for_staff(request.user, slug)
    if request.method != "POST":
        return redirect("versions", slug)
    form = RollbackForm(request.POST)
    if not form.is_valid():
        return _page(request, model, _champion(model), form=form, status=422)
    try:
        move = actions.version_rollback(
            model=model, champion=form.cleaned_data["champion"], by=request.user,
            reason=form.cleaned_data["reason"], now=timezone.now(),
        )  # fmt: skip
    except Refused as refused:
        return _page(request, model, _champion(model), form=form, refused=refused, status=409)
    messages.success(request, f"{move.to_version.label} is the champion again.")
    return redirect("versions", slug)


def _page(
    request: Request,
    model: RegisteredModel,
    number: int,
    *,
    form: ReasonForm | None = None,
    refused: Refused | None = None,
    not_exported: Refused | None = None,
    status: int = 200,
) -> HttpResponse:
    """Render a version; after a refusal with its sentence and what was typed."""
    row = _row_for(model, number)
    champion = champion_of(model)
    context = {
        "model": model,
        "row": row,
        "finding": finding_for_promotion(row.version, champion),
        "version": row.version,
        "details": version_queries.details_of(row.version),
        "champion": champion,
        "before": champion_before(model) if row.is_champion else None,
        "form": form,
        "refused": refused,
        "not_exported": not_exported,
    }
    return render(request, "pages/version.html", context, status=status)


def _row_for(model: RegisteredModel, number: int) -> version_queries.VersionRow:
    try:
        return version_queries.version_row(model=model, number=number)
    except ModelVersion.DoesNotExist as missing:
        raise Http404 from missing


def _champion(model: RegisteredModel) -> int:
    champion = champion_of(model)
    if champion is None:
        raise Http404
    return champion.number
