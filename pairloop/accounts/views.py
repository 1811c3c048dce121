"""Logging in, and the page of one's own account."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from django_htmx.http import HttpResponseClientRefresh

from pairloop.accounts import actions, queries
from pairloop.accounts.forms import LoginForm, TokenForm
from pairloop.accounts.models import Token
from pairloop.lib.http import Request


class _Login(LoginView):
    """Django's, with the pause after wrong passwords."""

    form_class = LoginForm
    redirect_authenticated_user = True

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """Ask again, or say when to come back."""
        answer = super().form_invalid(form)
        if isinstance(form, LoginForm) and form.refused:
            answer.status_code = 429
            answer.headers["Retry-After"] = str(form.refused.seconds)
        return answer


LOGIN = _Login.as_view()


@login_not_required
def login(request: Request) -> HttpResponseBase:
    """Ask who is there; a part of a page whose session has ended makes the whole page ask."""
    if request.htmx:
        return HttpResponseClientRefresh()
    return LOGIN(request)


@login_not_required
def admin_login(request: HttpRequest) -> HttpResponse:
    """Send whoever wants to administrate to the one login; for labelers there is no administration."""
    if request.user.is_authenticated:
        raise Http404
    return redirect(reverse("login", query={"next": request.GET.get("next", "/admin/")}))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def account(request: Request) -> HttpResponse:
    """List one's tokens; POST makes another and shows it this once."""
    if request.method != "POST":
        return _account(request, TokenForm())
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _account(request, form, status=422)
    try:
        token, secret = actions.token_create(
            user=request.user,
            name=form.cleaned_data["name"],
            days=form.cleaned_data["days"],
            is_read_only=form.cleaned_data["is_read_only"],
            now=timezone.now(),
        )
    except actions.TokenNameTaken as refused:
        form.add_error("name", str(refused))
        return _account(request, form, status=409)
    # No redirect: what it would carry the secret in, a cookie or the session, would keep it.
    return _account(request, TokenForm(), made=token, secret=secret, status=201)


@require_http_methods(["GET", "HEAD", "POST"])
def token_revoke(request: Request, key: str) -> HttpResponse:
    """End one of one's own tokens. Repeating it changes nothing."""
    if request.method != "POST":
        return redirect("account")
    try:
        actions.token_revoke(user=request.user, key=key)
    except Token.DoesNotExist:
        messages.info(request, "You have no such token; it may be revoked already.")
    else:
        messages.success(request, f"{key}… is revoked: what used it gets no answer any more.")
    return redirect("account")


def _account(
    request: Request,
    form: TokenForm,
    *,
    made: Token | None = None,
    secret: str = "",
    status: int = 200,
) -> HttpResponse:
    context = {
        "form": form,
        "tokens": queries.tokens_of(request.user),
        "made": made,
        "secret": secret,
        "now": timezone.now(),
    }
    return render(request, "accounts/account.html", context, status=status)
