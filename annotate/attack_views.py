"""A prompt that a labeler writes to see the model fail."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from annotate import weak
from annotate.forms import AttackForm
from models_registry.lookup import model_for
from models_registry.models import RegisteredModel
from pairloop.lib import tags
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request

#: Of a labeler's own prompts, the newest.
SHOWN = 10


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def attack(request: Request, slug: str) -> HttpResponse:
    """Show the form; POST takes a prompt, and the labeler goes on judging."""
    model = model_for(request.user, slug)
    if request.method != "POST":
        return _form(request, model, AttackForm())
    form = AttackForm(request.POST)
    if not form.is_valid():
        return _form(request, model, form, status=422)
    try:
        weak.attack_prompt_add(
            model=model,
            author=request.user,
            text=form.cleaned_data["prompt"],
            now=timezone.now(),
        )
    except Refused as refused:
        form.add_error("prompt", str(refused))
        return _form(request, model, form, status=422)
    told = f"The model answers your prompt now. You get its two answers next, {_when(model)}."
    if request.htmx:
        return _form(request, model, AttackForm(), told=told)
    messages.success(request, told)
    return redirect("judge", slug)


def _when(model: RegisteredModel) -> str:
    said = tags.wait(weak.attack_seconds(model))
    return f"in {said}" if said.startswith("about") else said


def _form(
    request: Request,
    model: RegisteredModel,
    form: AttackForm,
    *,
    told: str = "",
    status: int = 200,
) -> HttpResponse:
    template = "annotate/attack.html" if request.htmx else "annotate/attack_page.html"
    context = {"model": model, "attack": form, "told": told}
    if not request.htmx:
        context["written"] = weak.attacks_of(
            model=model, author=request.user, limit=SHOWN, now=timezone.now()
        )
    response = render(request, template, context, status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response
