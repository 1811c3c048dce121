"""The triples of a model: what there is, how they come in from a file and how they leave as one."""

from __future__ import annotations

from django.core.files.uploadedfile import UploadedFile
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HTMX_STOP_POLLING

from annotate import imports, queries
from annotate.downloads import triples_download
from annotate.forms import TriplesFileForm, TriplesImportForm
from annotate.models import Import
from annotate.triples import triple_pairs
from models_registry.lookup import model_for_staff
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request, render_part
from pairloop.pages.triple_queries import triple_page

#: Imports that the page lists.
RECENT = 5
#: Rejected lines that the report shows.
SHOWN = 100


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def triples(request: Request, slug: str) -> HttpResponse:
    """Show the newest triples; POST takes a file of preference pairs."""
    model = model_for_staff(request.user, slug)
    if request.method != "POST":
        return _page(request, model, TriplesImportForm())
    form = TriplesImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return _page(request, model, form, status=422)
    file: UploadedFile[bytes] = form.cleaned_data["file"]
    try:
        started = imports.import_start(
            model=model, by=request.user, filename=file.name or "", pieces=file.chunks()
        )
    except Refused as refused:
        form.add_error("file", str(refused))
        return _page(request, model, form, status=422)
    return redirect("triples-import", slug, started.pk)


@never_cache
@require_safe
def triples_file(request: Request, slug: str) -> HttpResponse | StreamingHttpResponse:
    """Send the triples as a file."""
    model = model_for_staff(request.user, slug)
    form = TriplesFileForm(request.GET)
    if not form.is_valid():
        return _page(request, model, TriplesImportForm(), file_form=form, status=422)
    return triples_download(
        model=model,
        pairs=triple_pairs(model=model),
        file_format=form.cleaned_data["format"],
        ties=form.cleaned_data["ties"],
        keys=form.cleaned_data["keys"],
    )


@never_cache
@require_safe
def import_page(request: Request, slug: str, number: int) -> HttpResponse:
    """Show how far an import is; until it is over, the page asks for itself every second."""
    model = model_for_staff(request.user, slug)
    try:
        found = queries.import_of(model=model, import_id=number)
    except Import.DoesNotExist as missing:
        raise Http404 from missing
    context = {
        "model": model,
        "found": found,
        "percent": int(found.progress * 100),
        "rejected": found.rejected[:SHOWN],
        "unnamed": found.rejected_count - min(SHOWN, len(found.rejected)),
    }
    status = HTMX_STOP_POLLING if request.htmx and found.is_over else 200
    return render_part(request, "pages/import.html", "import", context, status=status)


def _page(
    request: Request,
    model: RegisteredModel,
    form: TriplesImportForm,
    *,
    file_form: TriplesFileForm | None = None,
    status: int = 200,
) -> HttpResponse:
    before = request.GET.get("before", "")
    is_number = before.isascii() and before.isdigit() and len(before) < 19
    context = {
        "model": model,
        "form": form,
        "file_form": file_form or TriplesFileForm(),
        "imports": queries.imports_of(model, limit=RECENT),
        "page": triple_page(model, before=int(before) if is_number else None),
        "is_first": not is_number,
    }
    return render(request, "pages/triples.html", context, status=status)
