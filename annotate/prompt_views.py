"""The prompts of a model: what there is, and how more come in."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from annotate import actions, queries, weak
from annotate.actions import ImportReport
from annotate.forms import PromptFilterForm, PromptsImportForm
from annotate.prompts import FileRefused
from models_registry.lookup import model_for_staff
from models_registry.models import RegisteredModel
from pairloop.lib.http import Request

#: Prompts of one page, and rejected lines that the report shows.
PAGE = 25
SHOWN = 100
#: Weak tags and weak prompts of the page.
WEAK = 10


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def prompts(request: Request, slug: str) -> HttpResponse:
    """List a model's prompts; POST takes more of them."""
    model = model_for_staff(request.user, slug)
    if request.method != "POST":
        return _page(request, model, PromptsImportForm())
    form = PromptsImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return _page(request, model, form, status=422)
    try:
        report = actions.prompts_import(
            model=model,
            lines=form.lines(),
            tags=form.cleaned_data["tags"],
            system=form.cleaned_data["system"],
        )
    except FileRefused as refused:
        form.add_error("file" if form.cleaned_data["file"] else "text", str(refused))
        return _page(request, model, form, status=422)
    # What was typed stays for as long as there is something to mend in it.
    return _page(request, model, form if report.rejected else PromptsImportForm(), report=report)


def _page(
    request: Request,
    model: RegisteredModel,
    form: PromptsImportForm,
    *,
    report: ImportReport | None = None,
    status: int = 200,
) -> HttpResponse:
    filter_form = PromptFilterForm(request.GET, tags=queries.tags_of(model))
    wanted = filter_form.wanted()
    found = queries.prompts_matching(model, wanted)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    context = {
        "model": model,
        "form": form,
        "filter_form": filter_form,
        "is_filtered": wanted != queries.PromptFilter(),
        "counts": queries.prompt_counts(model),
        "weak": weak.weaknesses(model, limit=WEAK),
        "page": page,
        "rows": queries.prompt_rows(list(page.object_list)),
        "report": report,
        "rejected": report.rejected[:SHOWN] if report else [],
        "unnamed": max(0, len(report.rejected) - SHOWN) if report else 0,
    }
    return render(request, "annotate/prompts.html", context, status=status)
