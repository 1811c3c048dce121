"""The settings of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Model
from django.forms import BooleanField, BoundField, ChoiceField
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from annotate import actions as annotate
from annotate import queries as annotated
from models_registry import actions as registry
from models_registry.lookup import model_for_staff
from models_registry.models import RegisteredModel
from pairloop.lib import edits
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request, render_part
from pairloop.pages import settings_forms as forms
from training import actions as training
from training import queries as trained


@dataclass(frozen=True, slots=True)
class Group:
    """Settings that are saved together."""

    title: str
    about: str
    form: type[forms.SettingsForm]
    #: Returns the stored row, or the defaults.
    row: Callable[[RegisteredModel], Model]
    save: Callable[..., object]


def _itself(model: RegisteredModel) -> Model:
    return model


def _name_save(*, model: RegisteredModel, values: dict[str, Any], seen: str, by: User) -> None:
    registry.model_change(model=model, values=values, seen=seen)


def _rounds_save(*, model: RegisteredModel, values: dict[str, Any], seen: str, by: User) -> None:
    training.policy_change(model=model, values=values, seen=seen, now=timezone.now())


GROUPS = {
    "name": Group("Model", "", forms.NameForm, _itself, _name_save),
    "guidelines": Group(
        "Guidelines", "What labelers should prefer. They can open it beside every pair.",
        forms.GuidelinesForm, annotated.policy_of, annotate.policy_change,
    ),
    "sampling": Group(
        "Sampling", "How the answers are written that labelers compare. For pairs written from now on.",
        forms.SamplingForm, annotated.policy_of, annotate.policy_change,
    ),
    "judging": Group(
        "Judging", "Who judges what, and how much of it only measures.",
        forms.JudgingForm, annotated.policy_of, annotate.policy_change,
    ),
    "rounds": Group(
        "Rounds", "When a round starts, and how it trains. For rounds that start from now on.",
        forms.RoundsForm, trained.policy_of, _rounds_save,
    ),
    "versions": Group(
        "Versions",
        "Every new version answers held-out prompts. One that leaves these guardrails does not write pairs.",
        forms.VersionsForm, trained.policy_of, _rounds_save,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """A field, and what somebody else saved there meanwhile."""

    field: BoundField
    meanwhile: str


@dataclass(frozen=True, slots=True)
class Card:
    """A group as the page shows it."""

    key: str
    group: Group
    form: forms.SettingsForm
    #: Fingerprint of what the form was filled from.
    seen: str
    refusal: str = ""
    is_saved: bool = False
    #: What was stored when somebody else had been faster.
    meanwhile: dict[str, Any] | None = None

    @property
    def lines(self) -> list[Line]:
        """The fields in order."""
        return [Line(field, self._meanwhile(field)) for field in self.form]

    def _meanwhile(self, field: BoundField) -> str:
        stored = (self.meanwhile or {}).get(field.name)
        if self.meanwhile is None or stored == self.form.cleaned_data.get(field.name):
            return ""
        return _shown(field, stored)


def _shown(field: BoundField, stored: Any) -> str:
    """Return what is stored as the field's widget would say it."""
    if isinstance(field.field, ChoiceField):
        options = {option.data["value"]: option.data["label"] for option in field.subwidgets}
        return str(options[stored])
    if isinstance(field.field, BooleanField):
        return "yes" if stored else "no"
    return "nothing" if stored is None else str(field.field.prepare_value(stored)) or "nothing"


@never_cache
@require_safe
def settings(request: Request, slug: str) -> HttpResponse:
    """Show every setting of a model."""
    return _page(request, model_for_staff(request.user, slug))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def settings_group(request: Request, slug: str, key: str) -> HttpResponse:
    """Save one group of settings, take it back to the defaults, or show what it would look like."""
    model = model_for_staff(request.user, slug)
    if key not in GROUPS:
        raise Http404
    if request.method != "POST":
        # A login in between comes back with GET.
        return redirect(reverse("settings", args=[slug]) + f"#{key}")
    group, wish = GROUPS[key], request.POST.get("do", "save")
    form = group.form(request.POST, auto_id=f"{key}-%s")
    seen = request.POST.get("seen", "")
    if wish != "defaults" and not form.is_valid():
        return _page(request, model, Card(key, group, form, seen), status=422)
    if wish == "preview":
        return _page(request, model, Card(key, group, form, seen))
    values = group.form.defaults() if wish == "defaults" else form.values()
    try:
        group.save(model=model, values=values, seen=seen, by=request.user)
    except Refused as refused:
        return _page(request, model, _refused(key, model, form, refused), status=409)
    return redirect(reverse("settings", args=[slug]) + f"?saved={key}#{key}")


def _refused(key: str, model: RegisteredModel, form: forms.SettingsForm, refused: Refused) -> Card:
    """Keep what was typed, and show beside it what is stored: saving again is then said knowingly."""
    group = GROUPS[key]
    row = group.row(RegisteredModel.objects.get(pk=model.pk))
    form.is_valid()
    return Card(
        key, group, form,
        seen=edits.fingerprint(row, group.form.columns_of()),
        refusal=str(refused),
        meanwhile=group.form.stored(row),
    )  # fmt: skip


def _page(
    request: Request, model: RegisteredModel, card: Card | None = None, *, status: int = 200
) -> HttpResponse:
    # The name that somebody is typing must not stand in the page's head.
    cards = [card if card and card.key == key else _card(request, key, model) for key in GROUPS]
    by_key = {each.key: each for each in cards}
    prompts = annotated.prompt_counts(model)
    context = {
        "model": model,
        "cards": cards,
        "guidelines": by_key["guidelines"],
        "preview": by_key["guidelines"].form["guidelines"].value() or "",
        "guidelines_version": annotated.policy_of(model).guidelines_version,
        "held_out": prompts["holdout"],
        "prompts": sum(prompts.values()),
    }
    return render_part(request, "pages/settings.html", "guidelines", context, status=status)


def _card(request: Request, key: str, model: RegisteredModel) -> Card:
    group = GROUPS[key]
    row = group.row(model)
    return Card(
        key, group,
        form=group.form(initial=group.form.stored(row), auto_id=f"{key}-%s"),
        seen=edits.fingerprint(row, group.form.columns_of()),
        is_saved=request.GET.get("saved") == key,
    )  # fmt: skip
