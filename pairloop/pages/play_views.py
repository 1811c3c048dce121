"""The playground: a typed question, two versions that answer it, and a blind pick."""

from __future__ import annotations

import random
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from django_htmx.http import HTMX_STOP_POLLING

from annotate import prompts
from models_registry import play_queries, plays
from models_registry.lookup import model_for_staff
from models_registry.models import ModelVersion, Play, RegisteredModel
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request, render_part
from pairloop.pages.play_reports import sampling_of, sides_of, waiting_of

#: Questions on one page of the history.
PAGE = 20


class Choice(NamedTuple):
    """A pick's button, with the key that lies where the answer does."""

    pick: Play.Pick
    label: str
    mark: str
    key: str


CHOICES = [
    Choice(Play.Pick.LEFT, "Left is better", "‹", "A"),  # noqa: RUF001
    Choice(Play.Pick.EQUAL, "Equally good", "=", "D"),
    Choice(Play.Pick.RIGHT, "Right is better", "›", "G"),  # noqa: RUF001
    Choice(Play.Pick.BOTH_BAD, "Both bad", "×", "X"),  # noqa: RUF001
]


class PlayForm(forms.Form):
    """A question, and which two versions answer it."""

    uuid = forms.UUIDField()
    prompt = forms.CharField(
        label="Question",
        widget=forms.Textarea(
            attrs={"class": "input play-text", "rows": 4, "dir": "auto", "autofocus": True}
        ),
        error_messages={"required": "Type a question first."},
    )
    system = forms.CharField(
        label="System message",
        required=False,
        widget=forms.Textarea(attrs={"class": "input play-text", "rows": 2, "dir": "auto"}),
    )
    is_named = forms.BooleanField(label="Show names at once", required=False)

    def __init__(self, *args: Any, playable: list[ModelVersion], **kwargs: Any) -> None:
        """Offer the versions that may answer."""
        super().__init__(*args, **kwargs)
        self.playable = {version.number: version for version in playable}
        for name, label in (("first", "One version"), ("second", "Against")):
            self.fields[name] = forms.TypedChoiceField(
                label=label,
                coerce=int,
                choices=[(version.number, _name(version)) for version in playable],
                widget=forms.Select(attrs={"class": "input"}),
                error_messages={"invalid_choice": "Choose a version of the list."},
            )

    def clean(self) -> dict[str, Any]:
        """Make messages of the texts."""
        given = self.cleaned_data
        if "prompt" in given and "system" in given:
            try:
                given["messages"] = question_of(given["prompt"], given["system"])
            except prompts.PromptRefused as refused:
                self.add_error("prompt", str(refused))
        return given

    def asked(self) -> dict[str, Any]:
        """Return what the action takes of it."""
        given = self.cleaned_data
        return {
            "uuid": given["uuid"],
            "messages": given["messages"],
            "versions": (self.playable[given["first"]], self.playable[given["second"]]),
            "is_blind": not given["is_named"],
        }


class PickForm(forms.Form):
    """Which answer is better."""

    pick = forms.ChoiceField(choices=Play.Pick.choices)


def question_of(prompt: str, system: str) -> list[dict[str, str]]:
    """Return the messages of one turn. Raises PromptRefused, as an import of them would."""
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": prompt})
    return prompts.parse({"messages": turns}).messages


def _name(version: ModelVersion) -> str:
    aliases = sorted(alias.name for alias in version.aliases.all())
    return f"{version.label}, {', '.join(aliases)}" if aliases else version.label


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def playground(request: Request, slug: str) -> HttpResponse:
    """Show the form, the tally and what was asked before; POST asks."""
    model = model_for_staff(request.user, slug)
    playable = play_queries.versions_playable(model)
    if request.method != "POST":
        form = PlayForm(playable=playable, initial=_initial(request, model, playable))
        return _playground(request, model, form)
    form = PlayForm(request.POST, playable=playable)
    if not form.is_valid():
        return _playground(request, model, form, status=422)
    try:
        play, _ = plays.play_ask(
            model=model, by=request.user, sampling=sampling_of(model),
            chance=random.SystemRandom(), **form.asked(),
        )  # fmt: skip
    except Refused as refused:
        return _playground(request, model, form, refusal=str(refused), status=409)
    return redirect("play", slug, play.uuid)


@never_cache
@require_safe
def play(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Show one question with its answers; while they are missing, the page asks for itself every two seconds."""
    model = model_for_staff(request.user, slug)
    return _play(request, play_for(model, uuid))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def play_pick(request: Request, slug: str, uuid: UUID) -> HttpResponse:
    """Keep which answer is better; then the names are shown."""
    model = model_for_staff(request.user, slug)
    asked = play_for(model, uuid)
    if request.method != "POST":
        # A login in between comes back with GET.
        return redirect("play", slug, uuid)
    form = PickForm(request.POST)
    if not form.is_valid():
        return _play(
            request, asked, refusal="Choose one of the four; nothing was kept.", status=422
        )
    try:
        plays.play_pick(
            play=asked, by=request.user, pick=form.cleaned_data["pick"], now=timezone.now()
        )
    except Refused as refused:
        messages.info(request, str(refused))
    return redirect("play", slug, uuid)


def play_for(model: RegisteredModel, uuid: UUID) -> Play:
    """Return a question of this model. Raises Http404."""
    try:
        return play_queries.play_of(model=model, uuid=uuid)
    except Play.DoesNotExist as missing:
        raise Http404 from missing


def _play(request: Request, play: Play, *, refusal: str = "", status: int = 200) -> HttpResponse:
    waiting = waiting_of(play) if play.is_waiting else None
    if request.htmx:
        if waiting and request.GET.get("seen") == waiting.fingerprint:
            # Nothing to paint: focus, selection and screen readers are left alone.
            return HttpResponse(status=204)
        status = status if waiting else HTMX_STOP_POLLING
    context = {
        "model": play.model,
        "play": play,
        "waiting": waiting,
        "sides": sides_of(play),
        "choices": CHOICES,
        "is_mine": play.asked_by_id == request.user.pk,
        "refusal": refusal,
    }
    return render_part(request, "pages/play.html", "play", context, status=status)


def _playground(
    request: Request,
    model: RegisteredModel,
    form: PlayForm,
    *,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    """Render the page; after a refusal with its sentence and what was typed."""
    page = Paginator(play_queries.plays_of(model), PAGE).get_page(request.GET.get("page"))
    is_kept = form.is_bound and "uuid" not in form.errors and status != 409
    context = {
        "model": model,
        "form": form,
        "uuid": form["uuid"].value() if is_kept else uuid4(),
        "refusal": refusal,
        "tallies": play_queries.tallies_of(model),
        "page": page,
    }
    return render(request, "pages/playground.html", context, status=status)


def _initial(
    request: Request, model: RegisteredModel, playable: list[ModelVersion]
) -> dict[str, Any]:
    """Return what the form begins with: what ?again= asked, all but the question of ?like=, or the defaults."""
    pair = play_queries.pair_default(playable)
    found: dict[str, Any] = {}
    if pair:
        found = {"first": pair[0].number, "second": pair[1].number}
    for name in ("again", "like"):
        if before := _play_named(model, request.GET.get(name, "")):
            newer, older = sorted(before.versions, key=lambda version: -version.number)
            found |= {
                "first": newer.number,
                "second": older.number,
                "system": before.system,
                "is_named": not before.is_blind,
                "prompt": before.question if name == "again" else "",
            }
            break
    return found


def _play_named(model: RegisteredModel, uuid: str) -> Play | None:
    try:
        return play_queries.play_of(model=model, uuid=UUID(uuid))
    except (ValueError, Play.DoesNotExist):
        return None
