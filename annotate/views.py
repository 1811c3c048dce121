"""The judging screen: a pair and seven verdicts, or why there is no pair."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HTMX_STOP_POLLING

from annotate import judging, queries
from annotate.forms import JudgementForm
from annotate.models import Assignment, Verdict
from annotate.waiting import waiting_for
from models_registry.lookup import model_for
from models_registry.models import RegisteredModel
from pairloop.lib.http import Request, render_part


class Choice(NamedTuple):
    """A verdict's button: the mark says the same as the label, for the eye that already knows."""

    verdict: Verdict
    mark: str
    key: str


#: In spatial order, as are the keys.
SCALE = [
    Choice(Verdict.LEFT_MUCH, "«", "A"),
    Choice(Verdict.LEFT, "‹", "S"),  # noqa: RUF001
    Choice(Verdict.TIE, "=", "D"),
    Choice(Verdict.RIGHT, "›", "F"),  # noqa: RUF001
    Choice(Verdict.RIGHT_MUCH, "»", "G"),
]
OTHERS = [
    Choice(Verdict.BOTH_BAD, "×", "X"),  # noqa: RUF001
    Choice(Verdict.CANNOT_JUDGE, "?", "Q"),
]


@never_cache
@require_safe
def judge(request: Request, slug: str) -> HttpResponse:
    """Show the labeler's next pair, or what they are waiting for."""
    model = model_for(request.user, slug)
    try:
        assignment = judging.pair_assign(model=model, labeler=request.user, now=timezone.now())
    except judging.QueueEmpty:
        return _waiting(request, model)
    return _pair(request, assignment, status=HTMX_STOP_POLLING if _polls(request) else 200)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def judgement(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Record a verdict; the next pair follows. Repeating it changes nothing."""
    assignment = _assignment_for(request, slug, uuid)
    if request.method != "POST":
        # A login in between comes back with GET; the pair still waits where it was.
        return redirect("judge", slug)
    form = JudgementForm(request.POST)
    if not form.is_valid():
        return _pair(request, assignment, form=form, status=422)
    judging.judgement_record(
        assignment=assignment,
        verdict=form.cleaned_data["verdict"],
        active_ms=form.cleaned_data["active_ms"],
        now=timezone.now(),
    )
    return redirect("judge", slug)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def judgement_undo(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Take a judgement back; its pair follows. Repeating it changes nothing."""
    assignment = _assignment_for(request, slug, uuid)
    if request.method == "POST":
        judging.judgement_undo(assignment=assignment, now=timezone.now())
    return redirect("judge", slug)


def _assignment_for(request: Request, slug: str, uuid: UUID) -> Assignment:
    try:
        assignment = queries.assignment_of(labeler=request.user, uuid=uuid)
    except Assignment.DoesNotExist as missing:
        raise Http404 from missing
    if assignment.pair.prompt.model.slug != slug:
        raise Http404
    return assignment


def _polls(request: Request) -> bool:
    return bool(request.htmx) and "seen" in request.GET


def _waiting(request: Request, model: RegisteredModel) -> HttpResponse:
    waiting = waiting_for(model)
    if _polls(request) and request.GET["seen"] == waiting.fingerprint:
        # Nothing to paint: focus, selection and screen readers are left alone.
        return HttpResponse(status=204)
    context = {
        "model": model,
        "waiting": waiting,
        "judged_last": queries.assignment_judged_last(model=model, labeler=request.user),
    }
    return render_part(request, "annotate/judge.html", "judge", context)


def _pair(
    request: Request,
    assignment: Assignment,
    *,
    form: JudgementForm | None = None,
    status: int = 200,
) -> HttpResponse:
    prompt = assignment.pair.prompt
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    context = {
        "model": prompt.model,
        "assignment": assignment,
        "question": prompt.question,
        "turns": prompt.messages[:-1],
        "guidelines": queries.policy_of(prompt.model).guidelines,
        "progress": queries.judging_progress(
            model=prompt.model, labeler=request.user, since=midnight
        ),
        "judged_last": queries.assignment_judged_last(model=prompt.model, labeler=request.user),
        "taken_back": queries.verdict_taken_back(assignment),
        "form": form,
        "scale": SCALE,
        "others": OTHERS,
    }
    return render_part(request, "annotate/judge.html", "judge", context, status=status)
