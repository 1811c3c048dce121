"""What an admin's browser may send about rounds."""

from __future__ import annotations

from typing import Any

from django import forms

from training import presets
from training.models import Reference


def _number(step: str) -> forms.NumberInput:
    return forms.NumberInput(attrs={"class": "input", "step": step})


class RoundForm(forms.Form):
    """One round's wishes; what is left empty is taken from the model's policy."""

    learning_rate = forms.FloatField(
        required=False, min_value=1e-7, max_value=1, widget=_number("any")
    )
    preset = forms.ChoiceField(
        label="What it learns",
        required=False,
        choices=[("", "as the policy says"), *presets.CHOICES],
        widget=forms.Select(attrs={"class": "input"}),
    )
    beta = forms.FloatField(
        label="β", required=False, min_value=0.001, max_value=10, widget=_number("any")
    )
    epochs = forms.IntegerField(required=False, min_value=1, max_value=20, widget=_number("1"))
    most_new = forms.IntegerField(
        label="At most so many new triples",
        required=False,
        min_value=0,
        max_value=1_000_000,
        widget=_number("1"),
    )
    reference = forms.ChoiceField(
        required=False,
        choices=[("", "as the policy says"), *Reference.choices],
        widget=forms.Select(attrs={"class": "input"}),
    )
    ties = forms.TypedChoiceField(
        label="Learn from ties",
        required=False,
        choices=[("", "as the policy says"), ("yes", "Yes"), ("no", "No")],
        coerce=lambda said: said == "yes",
        empty_value=None,
        widget=forms.Select(attrs={"class": "input"}),
    )

    def overrides(self) -> dict[str, Any]:
        """Return the fields that were filled in."""
        return {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}
