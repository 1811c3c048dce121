"""Home, login, and what a supervisor asks."""

from __future__ import annotations

import sys
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from pairloop.lib.http import Request
from pairloop.pages import health, queries


@never_cache
@require_safe
def home(request: Request) -> HttpResponse:
    """Show an admin each loop with its next action, a labeler what waits for them."""
    if request.user.is_staff:
        loops = queries.loops_of(request.user)
        return render(request, "pages/home_admin.html", {"loops": loops})
    return render(request, "pages/home.html", {"desks": queries.desks_of(request.user)})


@require_safe
def api_docs(request: Request) -> HttpResponse:
    """Show what the REST API can do, and let it be tried."""
    return render(request, "pages/api_docs.html")


def server_error(request: HttpRequest) -> HttpResponse:
    """Tell a database that is away, which comes back by itself, from a fault of ours."""
    is_away = isinstance(sys.exc_info()[1], OperationalError)
    if request.path.startswith("/api/"):
        return _api_error(is_away=is_away)
    if is_away:
        # Rendered without the request: who is logged in is in the database, too.
        page = render_to_string("503.html")
        return HttpResponse(page, status=503, headers={"Retry-After": "5"})
    return HttpResponse(render_to_string("500.html"), status=500)


def _api_error(*, is_away: bool) -> JsonResponse:
    if is_away:
        body = {"detail": "The database does not answer. Try again.", "code": "database_away"}
        return JsonResponse(body, status=503, headers={"Retry-After": "5"})
    body = {"detail": "Pairloop made a mistake; the log of the web part has it.", "code": "error"}
    return JsonResponse(body, status=500)


@csrf_exempt
@login_not_required
def api_missing(_request: HttpRequest, rest: str) -> JsonResponse:
    """Say in JSON that the REST API has no such address."""
    return JsonResponse({"detail": "There is no such address.", "code": "not_found"}, status=404)


@login_not_required
@never_cache
@require_safe
def healthz(_request: HttpRequest) -> HttpResponse:
    """Say that the process is alive; asks nobody else."""
    return HttpResponse("ok\n", content_type="text/plain")


@login_not_required
@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Say whether requests can be answered: database there, migrations applied. The rest are details.

    Strangers learn which part is well; figures are for staff.
    """
    try:
        health.database_check()
    except health.DatabaseNotReady as refused:
        body = {"ready": False, "detail": str(refused), "code": refused.code}
        return JsonResponse(body, status=503)
    found = health.checks()
    answer: dict[str, Any] = {
        "ready": True,
        "checks": {"database": "ok"}
        | {check.name: "ok" if check.is_ok else "not ok" for check in found},
    }
    if request.user.is_staff:
        answer["details"] = {check.name: check.detail for check in found}
    return JsonResponse(answer)
