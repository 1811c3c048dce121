"""What a labeler's browser may send."""

from __future__ import annotations

from django import forms

from annotate import exports
from annotate.models import Verdict

#: What the database's column holds.
MOST_MS = 2**31 - 1


class JudgementForm(forms.Form):
    """A verdict, and how long it took to read."""

    verdict = forms.ChoiceField(
        choices=Verdict.choices,
        error_messages={
            "required": "Choose one of the seven verdicts; nothing was recorded.",
            "invalid_choice": "Pairloop knows no such verdict; nothing was recorded. Choose one below.",
        },
    )
    active_ms = forms.CharField(required=False)

    def clean_active_ms(self) -> int:
        """Return the time, or 0 for nonsense: a broken clock must not cost a judgement."""
        value = str(self.cleaned_data["active_ms"])
        return (
            min(int(value), MOST_MS)
            if value.isascii() and value.isdigit() and len(value) < 15
            else 0
        )


class TriplesImportForm(forms.Form):
    """A file of preference pairs. What is in it is for the import to say."""

    file = forms.FileField(
        # An empty one is refused by the import, in a sentence that says more.
        allow_empty_file=True,
        error_messages={"required": "Choose a file first: JSONL or Parquet."},
        widget=forms.FileInput(attrs={"class": "input", "accept": ".jsonl,.json,.ndjson,.parquet"}),
    )


class TriplesFileForm(forms.Form):
    """Which triples, in which form."""

    format = forms.ChoiceField(
        label="Format",
        choices=[(exports.JSONL, "JSONL"), (exports.PARQUET, "Parquet")],
        widget=forms.Select(attrs={"class": "input"}),
    )
    keys = forms.ChoiceField(
        label="Names of the answers",
        choices=[("chosen_rejected", "chosen, rejected (TRL)"), ("good_bad", "good, bad")],
        widget=forms.Select(attrs={"class": "input"}),
    )
    ties = forms.BooleanField(label="Ties too", required=False)
