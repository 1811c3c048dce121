"""Two versions side by side, and what people say about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from annotate import comparisons
from annotate import queries as annotate
from models_registry.actions import MOST_BUDGET, comparison_close
from models_registry.lookup import model_for_staff
from models_registry.models import Comparison, ModelVersion, RegisteredModel
from models_registry.queries import comparison_of, versions_of
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request
from pairloop.pages import compare_queries
from pairloop.pages.compare_queries import FILTERS, OUTCOMES, Answers
from training import queries as training

TEMPLATE = "pages/compare.html"
#: The parts of the page that htmx may ask for, by the id that they replace.
PARTS = {"finding", "side"}
#: Prompts of the list view.
LIST = 20
#: Of the page's two switches: name in the address -> value -> what it is called.
SWITCHES = {
    "text": {"differences": "Differences", "rendered": "Rendered"},
    "view": {"one": "One by one", "list": "List"},
}


class AskForm(forms.Form):
    """On how many prompts the labelers compare; which numbers are possible is the action's to say."""

    prompts = forms.IntegerField(
        label="Held-out prompts",
        error_messages={
            "required": "Say on how many prompts.",
            "invalid": "Say on how many prompts, as a whole number.",
        },
        widget=forms.NumberInput(attrs={"class": "input", "min": 1, "max": MOST_BUDGET}),
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What of the page is shown, as its address says."""

    candidate: int
    against: int
    show: str = "all"
    tag: str = ""
    #: "one" prompt a page, or a "list".
    view: str = "one"
    #: The text is "rendered", or its "differences" are marked.
    text: str = "differences"
    #: Counted from 1.
    n: int = 1

    def url(self, **changes: object) -> str:
        """Return the address of another look; another filter begins at its first prompt."""
        other = replace(self, **({"n": 1} | changes))  # type: ignore[arg-type]
        return "?" + urlencode(
            {name: value for name, value in asdict(other).items() if value != ""}
        )


@dataclass(frozen=True, slots=True)
class Link:
    """A filter or another view, and where it is."""

    title: str
    url: str
    is_current: bool
    count: int | None = None


@never_cache
@require_safe
def compare(request: Request, slug: str) -> HttpResponse:
    """Show two versions side by side."""
    return _page(request, model_for_staff(request.user, slug))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def compare_ask(request: Request, slug: str) -> HttpResponse:
    """Ask the labelers to compare both versions."""
    model = model_for_staff(request.user, slug)
    candidate, incumbent, look = _chosen(request, model)
    if request.method != "POST":
        # A login in between comes back with GET.
        return _back(slug, look)
    form = AskForm(request.POST)
    if not form.is_valid():
        return _page(request, model, form=form, status=422)
    try:
        comparisons.comparison_open(
            model=model, candidate=candidate, incumbent=incumbent,
            budget=form.cleaned_data["prompts"], by=request.user,
        )  # fmt: skip
    except Refused as refused:
        return _page(request, model, form=form, refusal=str(refused), status=409)
    return _back(slug, look)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def compare_close(request: Request, slug: str, pk: int) -> HttpResponse:
    """Stop asking the labelers."""
    model = model_for_staff(request.user, slug)
    try:
        comparison = comparison_of(model=model, pk=pk)
    except Comparison.DoesNotExist as missing:
        raise Http404 from missing
    if request.method == "POST":
        comparison_close(comparison=comparison, now=timezone.now())
        messages.success(request, "Labelers are not asked any more. What they said is kept.")
    look = Look(candidate=comparison.candidate.number, against=comparison.incumbent.number)
    return _back(slug, look)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def compare_answers(request: Request, slug: str) -> HttpResponse:
    """Have the engine write the answers that are missing."""
    model = model_for_staff(request.user, slug)
    candidate, incumbent, look = _chosen(request, model)
    if request.method == "POST":
        comparisons.answers_ask(candidate=candidate, incumbent=incumbent)
    return _back(slug, look)


def _back(slug: str, look: Look) -> HttpResponse:
    return redirect(reverse("compare", args=[slug]) + look.url(n=look.n))


def _page(
    request: Request,
    model: RegisteredModel,
    *,
    form: AskForm | None = None,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    """Render the page, or the part of it that htmx asks for."""
    versions = list(versions_of(model))
    if compare_queries.versions_default(versions) is None and "candidate" not in request.GET:
        return render(request, TEMPLATE, {"model": model, "versions": versions})
    candidate, incumbent, look = _chosen(request, model, versions)
    finding = compare_queries.finding_of(candidate, incumbent)
    available = annotate.held_out_count(model)
    context = {
        "model": model,
        "versions": versions,
        "candidate": candidate,
        "incumbent": incumbent,
        "look": look,
        "here": look.url(n=look.n),
        "finding": finding,
        "available": available,
        "form": form or AskForm(initial={"prompts": min(available, 200)}),
        "refusal": refusal,
        "measurements": compare_queries.measurements_of(candidate, incumbent),
        "swapped": look.url(candidate=incumbent.number, against=candidate.number),
        **_side(model, candidate, incumbent, look),
    }
    part = request.htmx.target if request.htmx and request.htmx.target in PARTS else None
    response = render(request, f"{TEMPLATE}#{part}" if part else TEMPLATE, context, status=status)
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    return response


def _side(
    model: RegisteredModel, candidate: ModelVersion, incumbent: ModelVersion, look: Look
) -> dict[str, object]:
    """Return the answers that a look shows, and the ways to other ones."""
    answers = compare_queries.answers_of(candidate, incumbent)
    rows = answers.filtered(show=look.show, tag=look.tag)
    step = LIST if look.view == "list" else 1
    start = min(look.n, max(len(rows), 1)) - 1
    is_coming = bool(answers.missing) and (
        annotate.answers_are_coming(candidate, incumbent)
        or training.are_being_measured(candidate, incumbent)
    )
    return {
        "answers": answers,
        "rows": rows[start : start + step],
        "first": start + 1,
        "last": min(start + step, len(rows)),
        "count": len(rows),
        "previous": look.url(n=max(start + 1 - step, 1)) if start else "",
        "next": look.url(n=start + 1 + step) if start + step < len(rows) else "",
        "filters": _filters(answers, look, candidate),
        "tags": _tags(answers, look),
        "switches": [
            [
                Link(title, look.url(n=start + 1, **{name: value}), getattr(look, name) == value)
                for value, title in choices.items()
            ]
            for name, choices in SWITCHES.items()
        ],
        "is_coming": is_coming,
        "why_missing": (
            compare_queries.why_missing(model, answers) if answers.missing and not is_coming else ""
        ),
    }


def _filters(answers: Answers, look: Look, candidate: ModelVersion) -> list[Link]:
    """Return every filter with how many rows it lets through; those of outcomes once there are any."""
    names = {name: title for name, (title, _) in FILTERS.items()}
    if answers.judged:
        names |= OUTCOMES
    return [
        Link(
            title=title.format(candidate=candidate.label),
            url=look.url(show=name),
            is_current=look.show == name,
            count=len(answers.filtered(show=name, tag=look.tag)),
        )
        for name, title in names.items()
    ]


def _tags(answers: Answers, look: Look) -> list[Link]:
    tags = answers.tags
    if not tags:
        return []
    return [Link(tag or "any tag", look.url(tag=tag), look.tag == tag) for tag in ["", *tags]]


def _chosen(
    request: Request, model: RegisteredModel, versions: list[ModelVersion] | None = None
) -> tuple[ModelVersion, ModelVersion, Look]:
    """Return the two versions of the address, and what of them is looked at. Raises Http404."""
    versions = versions if versions is not None else list(versions_of(model))
    asked = request.GET
    numbered = {str(version.number): version for version in versions}
    default = compare_queries.versions_default(versions)
    if "candidate" in asked:
        candidate = numbered.get(asked["candidate"])
        others = [version for version in versions if version != candidate]
        if candidate is None or not others:
            raise Http404
        rival = compare_queries.rival_of(candidate, others).number
        incumbent = numbered.get(asked.get("against", str(rival)))
    elif default:
        candidate, incumbent = default
    else:
        raise Http404
    if incumbent is None:
        raise Http404
    look = Look(
        candidate=candidate.number,
        against=incumbent.number,
        show=asked["show"] if asked.get("show") in {*FILTERS, *OUTCOMES} else "all",
        tag=asked.get("tag", ""),
        view="list" if asked.get("view") == "list" else "one",
        text="rendered" if asked.get("text") == "rendered" else "differences",
        n=_number(asked.get("n", "")),
    )
    return candidate, incumbent, look


def _number(text: str) -> int:
    """Return the number of a row, 1 for whatever is none."""
    is_number = text.isascii() and text.isdigit() and len(text) < 7
    return max(int(text), 1) if is_number else 1
