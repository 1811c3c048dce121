"""What a browser may send about logins and tokens."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm

from pairloop.accounts import actions
from pairloop.lib.http import client_address


class LoginForm(AuthenticationForm):
    """Name and password, with a pause after five wrong ones."""

    error_messages = {
        "invalid_login": "That name and password do not go together. Both are case-sensitive.",
        "inactive": "That name and password do not go together. Both are case-sensitive.",
    }
    #: Why no password is looked at just now.
    refused: actions.TooManyLogins | None = None

    def clean(self) -> dict[str, Any]:
        """Look at the password, unless there were too many wrong ones."""
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not name or not password or self.request is None:
            return super().clean()
        address = client_address(self.request)
        try:
            actions.login_try(name=name, address=address)
        except actions.TooManyLogins as refused:
            self.refused = refused
            raise forms.ValidationError(str(refused), code=refused.code) from refused
        cleaned = super().clean()
        actions.login_succeed(name=name, address=address)
        return cleaned


class TokenForm(forms.Form):
    """A new token's name, time and scope."""

    name = forms.CharField(
        max_length=50,
        widget=forms.TextInput(attrs={"class": "input", "autocomplete": "off"}),
        error_messages={"required": "Give it a name, so that you know later what uses it."},
    )
    days = forms.IntegerField(
        label="Days until it expires",
        min_value=1,
        max_value=actions.MOST_DAYS,
        initial=90,
        widget=forms.NumberInput(attrs={"class": "input"}),
    )
    is_read_only = forms.BooleanField(label="It may only read", required=False)
