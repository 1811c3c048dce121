"""How well a model's labelers judge, and what staff does about it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from annotate import checks, flags, judging, queries
from annotate.models import Assignment, Flag, Gold, Pair
from annotate.quality import LEAST_JUDGEMENTS
from models_registry.lookup import model_for_staff
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request
from pairloop.pages import quality_queries
from pairloop.pages.quality_queries import DAYS, STEP

TEMPLATE = "pages/quality.html"
USUAL_DAYS = 30
#: The largest number that the database's column holds.
LARGEST = 2**63 - 1


class GoldForm(forms.Form):
    """Which pair becomes a gold pair, and which of its answers is the better one."""

    pair = forms.IntegerField(
        min_value=1,
        max_value=LARGEST,
        error_messages=dict.fromkeys(
            ("required", "invalid", "min_value", "max_value"), "Choose a pair of this model."
        ),
    )
    expected = forms.IntegerField(
        min_value=1,
        max_value=LARGEST,
        error_messages=dict.fromkeys(
            ("required", "invalid", "min_value", "max_value"), "Say which answer is the better one."
        ),
    )
    why = forms.CharField(required=False, max_length=2000, strip=True)


@never_cache
@require_safe
def quality(request: Request, slug: str) -> HttpResponse:
    """Show how a model's pairs are judged."""
    return _page(request, model_for_staff(request.user, slug))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def quality_gold(request: Request, slug: str) -> HttpResponse:
    """Make a gold pair from a judged one."""
    model = model_for_staff(request.user, slug)
    if request.method != "POST":
        # A login in between comes back with GET.
        return redirect("quality", slug)
    form = GoldForm(request.POST)
    if not form.is_valid():
        why = next(iter(form.errors.values()))[0]
        return _page(request, model, refusal=str(why), status=422)
    given = form.cleaned_data
    pair = Pair.objects.select_related("prompt").filter(pk=given["pair"], prompt__model=model)
    try:
        checks.gold_make(
            pair=pair.get(), expected=given["expected"], why=given["why"], by=request.user,
            now=timezone.now(),
        )  # fmt: skip
    except Pair.DoesNotExist as missing:
        raise Http404 from missing
    except Refused as refused:
        return _page(request, model, refusal=str(refused), status=409)
    messages.success(
        request, "It is a gold pair now, and comes to every labeler who has not seen it."
    )
    return redirect(reverse("quality", args=[slug]) + "#gold")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def quality_gold_retire(request: Request, slug: str, pk: int) -> HttpResponse:
    """Serve a gold pair no more."""
    model = model_for_staff(request.user, slug)
    try:
        gold = checks.gold_of(model=model, pk=pk)
    except Gold.DoesNotExist as missing:
        raise Http404 from missing
    if request.method == "POST":
        checks.gold_retire(gold=gold, now=timezone.now())
        messages.success(request, "It is not served any more. What was said about it is kept.")
    return redirect(reverse("quality", args=[slug]) + "#gold")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def quality_lease(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Give one leased pair back to the queue."""
    model = model_for_staff(request.user, slug)
    lease = Assignment.objects.filter(pk=uuid, pair__prompt__model=model).first()
    if lease is None:
        raise Http404
    if request.method == "POST":
        judging.lease_release(assignment=lease, now=timezone.now())
        messages.success(request, "The pair is back in the queue. A judgement of it still counts.")
    return redirect(reverse("quality", args=[slug]) + "#leases")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def quality_leases(request: Request, slug: str, pk: int) -> HttpResponse:
    """Give all that a labeler holds of a model back to the queue."""
    model = model_for_staff(request.user, slug)
    labeler = User.objects.filter(pk=pk).first()
    if labeler is None:
        raise Http404
    if request.method == "POST":
        count = judging.leases_give_back(labeler=labeler, model=model, now=timezone.now())
        messages.success(
            request,
            f"{count} pair{'' if count == 1 else 's'} of {labeler.get_username()} are back.",
        )
    return redirect(reverse("quality", args=[slug]) + "#leases")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def quality_flag(request: Request, slug: str, pk: int) -> HttpResponse:
    """Say what came of a labeler's flag."""
    model = model_for_staff(request.user, slug)
    try:
        flag = flags.flag_of(model=model, pk=pk)
    except Flag.DoesNotExist as missing:
        raise Http404 from missing
    if request.method == "POST":
        try:
            flags.flag_resolve(
                flag=flag, resolution=request.POST.get("resolution", ""), by=request.user,
                now=timezone.now(),
            )  # fmt: skip
        except Refused as refused:
            return _page(request, model, refusal=str(refused), status=409)
    return redirect(reverse("quality", args=[slug]) + "#flags")


def _page(
    request: Request, model: RegisteredModel, *, refusal: str = "", status: int = 200
) -> HttpResponse:
    days, first = _days(request), _number(request.GET.get("from", ""))
    now = timezone.now()
    found = quality_queries.quality_of(
        model, since=now - timedelta(days=days), now=now, first=first
    )
    count = len(found.report.disagreements)
    context = {
        "model": model,
        "found": found,
        "report": found.report,
        "policy": queries.policy_of(model),
        "days": days,
        "choices": DAYS,
        "least": LEAST_JUDGEMENTS,
        "agreements": quality_queries.agreements_of(found.report),
        "work": quality_queries.work_of(found.report),
        "verdicts": quality_queries.verdicts_of(found.report),
        "versions": quality_queries.versions_of(found.report),
        "previous": max(found.first - STEP, 1) if found.first > 1 else 0,
        "next": found.last + 1 if found.last < count else 0,
        "refusal": refusal,
    }
    return render(request, TEMPLATE, context, status=status)


def _days(request: Request) -> int:
    asked = request.GET.get("days", "")
    return next((days for days in DAYS if str(days) == asked), USUAL_DAYS)


def _number(text: str) -> int:
    """Return the number of a row, 1 for whatever is none."""
    is_number = text.isascii() and text.isdigit() and len(text) < 7
    return max(int(text), 1) if is_number else 1
