"""Who may judge a model, who is an admin, and the pages where people set their passwords."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from django.contrib import messages
from django.contrib.auth import forms as auth_forms
from django.contrib.auth import views as auth_views
from django.contrib.auth.models import User
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from annotate import people as actions
from models_registry.lookup import model_for_staff
from models_registry.models import RegisteredModel
from pairloop.lib.errors import Refused
from pairloop.lib.http import Request
from pairloop.pages import people_queries
from pairloop.pages.people_forms import PersonForm

#: Where a new link waits in the admin's session for the page that shows it.
FRESH = "person_link"


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def people(request: Request, slug: str) -> HttpResponse:
    """Show who may judge a model and who is an admin; POST adds somebody new."""
    model = model_for_staff(request.user, slug)
    if request.method != "POST":
        return _people(request, model)
    form = PersonForm(request.POST)
    if not form.is_valid():
        return _people(request, model, form=form, status=422)
    try:
        person = actions.person_add(
            **form.wishes(), model=model, by=request.user, now=timezone.now()
        )
    except Refused as refused:
        form.add_error("username", str(refused))
        return _people(request, model, form=form, status=409)
    _link_show(request, person)
    return redirect(reverse("people", args=[slug]) + "#link")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def person_change(request: Request, slug: str, pk: int, change: str) -> HttpResponse:
    """Change one person's account or membership; repeating it changes nothing."""
    model = model_for_staff(request.user, slug)
    person = User.objects.filter(pk=pk).first()
    if person is None or change not in CHANGES:
        raise Http404
    if request.method != "POST":
        # A login in between comes back with GET.
        return redirect("people", slug)
    try:
        CHANGES[change](request, model, person)
    except Refused as refused:
        return _people(request, model, refusal=f"{person.get_username()}: {refused}", status=409)
    return redirect(reverse("people", args=[slug]) + ("#link" if change == "link" else ""))


def _link_show(request: Request, person: User) -> None:
    """Make a link, and keep it for the next page: it is shown there once."""
    link = actions.link_make(person=person, by=request.user, now=timezone.now())
    path = reverse("person-link", args=[link.uid, link.token])
    request.session[FRESH] = {
        "name": person.get_username(),
        "url": request.build_absolute_uri(path),
    }


def _member(
    action: Callable[..., object], said: str, request: Request, model: RegisteredModel, person: User
) -> None:
    action(model=model, person=person, by=request.user, now=timezone.now())
    messages.success(request, said.format(person.get_username()))


def _account(
    action: Callable[..., object], said: str, request: Request, model: RegisteredModel, person: User
) -> None:
    action(person=person, by=request.user, now=timezone.now())
    messages.success(request, said.format(person.get_username()))


CHANGES: dict[str, Callable[[Request, RegisteredModel, User], None]] = {
    "link": lambda request, _model, person: _link_show(request, person),
    "add": partial(_member, actions.member_add, "{} may judge this model now."),
    "remove": partial(
        _member, actions.member_remove,
        "{} judges this model no more. What they held is back in the queue; their judgements stay.",
    ),
    "deactivate": partial(
        _account, actions.person_deactivate,
        "{} is logged out and cannot log in. What they held is back in the queue; their judgements stay.",
    ),
    "reactivate": partial(_account, actions.person_reactivate, "{} can log in again."),
    "make-admin": partial(_account, actions.admin_give, "{} is an admin now."),
    "make-labeler": partial(
        _account, actions.admin_take, "{} is a labeler now and judges the models they are a member of."
    ),
}  # fmt: skip


def _people(
    request: Request,
    model: RegisteredModel,
    *,
    form: PersonForm | None = None,
    refusal: str = "",
    status: int = 200,
) -> HttpResponse:
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    context = {
        "model": model,
        "people": people_queries.people_of(model=model, since=midnight),
        "changes": people_queries.changes_of(model),
        "form": form or PersonForm(),
        "refusal": refusal,
        "link": request.session.pop(FRESH, None),
    }
    return render(request, "pages/people.html", context, status=status)


# --- Passwords -----------------------------------------------------------------------------------------


class PasswordLinkView(auth_views.PasswordResetConfirmView):
    """Set a password by a link that an admin handed over; then one is logged in."""

    template_name = "pages/password_link.html"
    token_generator = actions.LINKS
    post_reset_login = True
    success_url = reverse_lazy("home")

    def get_user(self, uidb64: str) -> User | None:
        """Return whose link it is; the deactivated have none."""
        user = super().get_user(uidb64)
        return user if isinstance(user, User) and user.is_active else None

    def form_valid(self, form: auth_forms.SetPasswordForm[User]) -> HttpResponse:
        """Keep that the link was used."""
        response = super().form_valid(form)
        actions.password_noted(person=form.user, now=timezone.now())
        messages.success(self.request, "Your password is set, and you are logged in.")
        return response


@method_decorator(never_cache, name="dispatch")
class PasswordView(auth_views.PasswordChangeView):
    """Change one's own password; every other session of theirs ends."""

    template_name = "pages/password.html"
    success_url = reverse_lazy("home")

    def form_valid(self, form: auth_forms.PasswordChangeForm) -> HttpResponse:
        """Keep that it was changed."""
        response = super().form_valid(form)
        actions.password_noted(person=form.user, now=timezone.now())
        messages.success(
            self.request, "Your password is changed. Everywhere else you are logged out."
        )
        return response
