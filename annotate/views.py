"""The judging screen: a pair and seven verdicts, or why there is no pair.

Each address answers a page's script in JSON or with a card, and a browser without one with a redirect.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import NoReverseMatch
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from annotate import flags, judging, queries, screens
from annotate.forms import JudgementForm, UndoForm, uuids_of
from annotate.models import Assignment
from annotate.waiting import waiting_for
from models_registry.lookup import model_for
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request

GONE = "This pair is not among yours any more."


def _wants_json(request: Request) -> bool:
    kinds = ["text/html", "application/json"]
    return request.get_preferred_type(kinds) == "application/json"


def _error(detail: str, code: str, status: int) -> JsonResponse:
    return JsonResponse({"detail": detail, "code": code}, status=status)


def _answers(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Say a "no" so that it can be read: as JSON to a script, as a notice to a person."""

    @wraps(view)
    def answered(request: Request, slug: str, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, slug, **kwargs)
        except Refused as refused:
            if _wants_json(request):
                return _error(str(refused), refused.code, 409)
            messages.warning(request, str(refused))
            return redirect("judge", slug)
        except Http404:
            if _wants_json(request):
                return _error(GONE, "not_found", 404)
            raise

    return never_cache(answered)


@_answers
@require_safe
def judge(request: Request, slug: str) -> HttpResponse:
    """Show the labeler's next pair, or what they are waiting for."""
    model = model_for(request.user, slug)
    try:
        assignment = judging.pair_assign(
            model_id=model.pk, labeler=request.user, now=timezone.now()
        )
    except judging.QueueEmpty:
        assignment = None
    return _page(request, model, assignment)


@_answers
@require_POST
def judge_next(request: Request, slug: str) -> HttpResponse:
    """Lease one more pair for a page that holds some, as a card.

    When there is none: 204, or why, to a page that has seen something else.
    """
    model = model_for(request.user, slug)
    try:
        card = _card_ahead(request, model.pk)
    except judging.QueueEmpty:
        return _nothing(request, model)
    return HttpResponse(card)


@_answers
@require_http_methods(["GET", "HEAD", "POST"])
def judge_keep(request: Request, slug: str) -> HttpResponse:
    """Keep a page's leases alive, and tell which guidelines are the present ones.

    GET tells a page whose token grew old who is logged in, and the new one.
    """
    model = model_for(request.user, slug)
    if request.method != "POST":
        return JsonResponse({"user": request.user.pk, "token": get_token(request)})
    held = judging.leases_keep(
        model=model,
        labeler=request.user,
        shown=next(iter(_held(request, "shown")), None),
        waiting=_held(request, "waiting"),
        now=timezone.now(),
    )
    version = queries.policy_of(model).guidelines_version
    return JsonResponse({"held": [str(uuid) for uuid in held], "guidelines": version})


@_answers
@require_http_methods(["GET", "HEAD", "POST"])
def judgement(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Show one assignment, or record a verdict on it. Repeating it changes nothing, unless it is a revision.

    A page that asks for the `next` pair gets it with the answer, as from `judge_next`; an empty one when there is none.
    """
    form = JudgementForm(request.POST)
    if request.method != "POST" or not form.is_valid():
        assignment = _assignment_for(request, slug, uuid)
        if request.method == "POST":
            return _invalid(request, assignment, form)
        return _page(request, assignment.pair.prompt.model, assignment)
    try:
        facts = queries.facts_to_judge(labeler=request.user, slug=slug, uuid=uuid)
    except Assignment.DoesNotExist as missing:
        raise Http404 from missing
    said = dict(form.cleaned_data)
    recorded = judging.judgement_record(
        assignment=facts,
        now=timezone.now(),
        guidelines_seen=said.pop("guidelines"),
        **said,
    )
    if _wants_json(request):
        answer = {
            "verdict": recorded.judgement.verdict,
            "revision": recorded.judgement.revision,
            "is_new": recorded.is_new,
            "today": recorded.today,
            "in_all": recorded.in_all,
            "guidelines": facts.guidelines_present,
        }
        if "next" in request.POST:
            answer["card"] = _card_ahead_if_any(request, facts.model_id)
        return JsonResponse(answer)
    return _after(slug, was_revised=form.cleaned_data["revise"])


@_answers
@require_http_methods(["GET", "HEAD", "POST"])
def judgement_undo(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Take a judgement back; its pair follows. Repeating it changes nothing."""
    assignment = _assignment_for(request, slug, uuid)
    if request.method == "POST":
        form = UndoForm(request.POST)
        form.full_clean()
        revision = judging.judgement_undo(
            assignment=assignment, now=timezone.now(), of=form.cleaned_data["of"]
        )
        if _wants_json(request):
            return JsonResponse({"revision": revision, **_undone(request, assignment)})
    # A login in between comes back with GET; the pair still waits where it was.
    return redirect("judge", slug)


@_answers
@require_http_methods(["GET", "HEAD", "POST"])
def judgement_later(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Set a pair aside: it comes back when nothing else waits. Or take it up again."""
    assignment = _assignment_for(request, slug, uuid)
    if request.method == "POST":
        is_aside = _is_on(request, "is_aside")
        judging.pair_set_aside(assignment=assignment, is_aside=is_aside, now=timezone.now())
    return _done(request, slug)


@_answers
@require_http_methods(["GET", "HEAD", "POST"])
def judgement_flag(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Ask an admin to look at a pair, or no longer."""
    assignment = _assignment_for(request, slug, uuid)
    if request.method == "POST":
        flags.flag_set(
            assignment=assignment, is_raised=_is_on(request, "is_raised"), now=timezone.now()
        )
    return _done(request, slug)


@_answers
@require_safe
def judge_view(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Show a pair in another way: what differs, or as it was written."""
    assignment = _assignment_for(request, slug, uuid)
    card = screens.card_of(assignment, shown=screens.shown_as(request.GET.get("as", "")))
    return render(request, "annotate/judge_card.html", {"card": card})


def _assignment_for(request: Request, slug: str, uuid: UUID) -> Assignment:
    try:
        assignment = queries.assignment_of(labeler=request.user, uuid=uuid)
    except Assignment.DoesNotExist as missing:
        raise Http404 from missing
    if assignment.pair.prompt.model.slug != slug:
        raise Http404
    return assignment


def _card_ahead(request: Request, model_id: int) -> str:
    """Lease one more pair for a page that holds some, and return its card. Raises judging.QueueEmpty."""
    assignment = judging.pair_assign(
        model_id=model_id,
        labeler=request.user,
        now=timezone.now(),
        have=_held(request, "have"),
        is_ahead=True,
    )
    card = screens.card_of(assignment, shown=screens.shown_as(request.POST.get("as", "")))
    return render_to_string("annotate/judge_card.html", {"card": card}, request)


def _card_ahead_if_any(request: Request, model_id: int) -> str:
    try:
        return _card_ahead(request, model_id)
    except judging.QueueEmpty:
        return ""


def _is_on(request: Request, name: str) -> bool:
    """Whether a button says yes, as it does without a value."""
    return request.POST.get(name, "1") != "0"


def _held(request: Request, name: str) -> list[UUID]:
    """Return the pairs that a page says are with it under this name; nonsense counts as nothing."""
    return uuids_of(request.POST.getlist(name))


def _page(
    request: Request,
    model: RegisteredModel,
    assignment: Assignment | None,
    *,
    form: JudgementForm | None = None,
    status: int = 200,
) -> HttpResponse:
    screen = screens.screen_of(model=model, labeler=request.user, assignment=assignment)
    context = {
        "screen": screen,
        "card": screen.card,
        "is_revision": screen.is_revision,
        "model": model,
        "form": form,
        **screens.BAR,
    }
    return render(request, "annotate/judge.html", context, status=status)


def _nothing(request: Request, model: RegisteredModel) -> HttpResponse:
    seen = request.POST.get("seen")
    if seen is None:
        return HttpResponse(status=204)
    waiting = waiting_for(model)
    if seen == waiting.fingerprint:
        # Nothing to paint: focus, selection and screen readers are left alone.
        return HttpResponse(status=204)
    return render(request, "annotate/judge_waiting.html", {"waiting": waiting})


def _invalid(request: Request, assignment: Assignment, form: JudgementForm) -> HttpResponse:
    if _wants_json(request):
        sentences = [str(error) for errors in form.errors.values() for error in errors]
        return _error(" ".join(sentences), "invalid", 422)
    return _page(request, assignment.pair.prompt.model, assignment, form=form, status=422)


def _undone(request: Request, assignment: Assignment) -> dict[str, Any]:
    """Return what a page needs to undo one more, and to redo this one."""
    model = assignment.pair.prompt.model
    last = queries.assignment_judged_last(model=model, labeler=request.user)
    said = queries.said_before(assignment)
    return {
        "judged_last": str(last.uuid) if last else None,
        "said": said and {"verdict": said.verdict, "reasons": said.reasons, "note": said.note},
    }


def _done(request: Request, slug: str) -> HttpResponse:
    return JsonResponse({}) if _wants_json(request) else redirect("judge", slug)


def _after(slug: str, *, was_revised: bool) -> HttpResponse:
    """Lead on to the next pair; from a revision back to where it began."""
    if was_revised:
        try:
            return redirect("history", slug)
        except NoReverseMatch:
            pass
    return redirect("judge", slug)
