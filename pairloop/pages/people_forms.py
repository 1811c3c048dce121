"""What an admin's browser may send about people."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.models import User

ROLES = [("labeler", "Labeler: judges this model's pairs"), ("admin", "Admin: runs everything")]


class PersonForm(forms.Form):
    """Somebody new. Whether the name is free is the action's to say."""

    username = forms.CharField(
        label="Name to log in with",
        max_length=150,
        validators=[User.username_validator],
        help_text="Letters, digits and @ . + - _",
        widget=forms.TextInput(
            attrs={"class": "input", "autocapitalize": "none", "spellcheck": "false", "autocomplete": "off"}
        ),
    )  # fmt: skip
    name = forms.CharField(
        label="Full name",
        max_length=150,
        required=False,
        help_text="Shown on this page. May stay empty.",
        widget=forms.TextInput(attrs={"class": "input", "autocomplete": "off"}),
    )
    email = forms.EmailField(
        label="E-mail",
        max_length=254,
        required=False,
        help_text="Pairloop sends none. May stay empty.",
        widget=forms.EmailInput(attrs={"class": "input", "autocomplete": "off"}),
    )
    role = forms.ChoiceField(choices=ROLES, initial="labeler", widget=forms.RadioSelect)

    def wishes(self) -> dict[str, Any]:
        """Return what `person_add` takes."""
        said = dict(self.cleaned_data)
        return {"is_admin": said.pop("role") == "admin", **said}
