"""The rounds' pages: start one, watch it, see what came of it."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HTMX_STOP_POLLING

from models_registry.lookup import model_for_staff
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request, render_part
from training import actions, queries, reports
from training.forms import RoundForm
from training.models import Round


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def rounds(request: Request, slug: str) -> HttpResponse:
    """List a model's rounds with what waits for the next; POST starts it."""
    model = model_for_staff(request.user, slug)
    if request.method != "POST":
        return _rounds(request, model, RoundForm())
    form = RoundForm(request.POST)
    if not form.is_valid():
        return _rounds(request, model, form, status=422)
    try:
        started = actions.round_start(
            model=model, by=request.user, now=timezone.now(), overrides=form.overrides()
        )
    except actions.RoundOpen as refused:
        # The second click of two, or somebody else's: show the one that runs.
        messages.info(request, str(refused))
        open_ = queries.round_under_way(model)
        return redirect("round", slug, open_.number) if open_ else redirect("rounds", slug)
    except Refused as refused:
        return _rounds(request, model, form, refusal=str(refused), status=409)
    return redirect("round", slug, started.number)


@never_cache
@require_safe
def round_page(request: Request, slug: str, number: int) -> HttpResponse:
    """Show one round; while it is under way the page asks for itself every two seconds."""
    round_ = _round_for(request, slug, number)
    context = {"model": round_.model, "report": reports.report_of(round_), "round": round_}
    is_over = bool(request.htmx) and not round_.is_under_way
    status = HTMX_STOP_POLLING if is_over else 200
    return render_part(request, "training/round.html", "round", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
def round_cancel(request: Request, slug: str, number: int) -> HttpResponse:
    """End a round that still trains."""
    round_ = _round_for(request, slug, number)
    if request.method != "POST":
        # A login in between comes back with GET.
        return redirect("round", slug, number)
    try:
        actions.round_cancel(round_=round_, now=timezone.now())
    except actions.RoundEnded as refused:
        messages.info(request, str(refused))
    return redirect("round", slug, number)


def _round_for(request: Request, slug: str, number: int) -> Round:
    try:
        return queries.round_of(model=model_for_staff(request.user, slug), number=number)
    except Round.DoesNotExist as missing:
        raise Http404 from missing


def _rounds(
    request: Request,
    model: RegisteredModel,
    form: RoundForm,
    *,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    open_ = queries.round_open(model)
    taken = queries.roles_of(open_)["new"] if open_ else 0
    context = {
        "model": model,
        "rounds": queries.rounds_of(model),
        "open": open_,
        "taken": taken,
        "policy": queries.policy_of(model),
        # A judgement that was taken back meanwhile may have left fewer than the round froze.
        "waiting": max(queries.triples_waiting(model) - taken, 0),
        "form": form,
        "refusal": refusal,
    }
    return render(request, "training/rounds.html", context, status=status)
