"""What a labeler's browser may send."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone
from django.utils.datastructures import MultiValueDict
from django.utils.dateparse import parse_datetime

from annotate import exports, prompts
from annotate.models import CANNOT, REASONS, Split, Verdict, reasons_of
from annotate.queries import PromptFilter

#: What the database's column holds.
MOST_MS = 2**31 - 1
LONGEST_NOTE = 5000
#: A judgement may have waited in a closed laptop for so long.
OLDEST = timedelta(days=60)
#: A page holds three pairs, and its outbox what could not be sent.
MOST_HELD = 200


def uuids_of(texts: Iterable[str]) -> list[UUID]:
    """Return those of a page's texts that are UUIDs, in order; the others are left out."""
    return [found for text in islice(texts, MOST_HELD) if (found := _uuid(text))]


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _number(text: str, *, least: int = 0) -> int | None:
    if text.isascii() and text.isdigit() and len(text) < 15 and int(text) >= least:
        return int(text)
    return None


class JudgementForm(forms.Form):
    """A verdict, why, and how it came about."""

    verdict = forms.ChoiceField(
        choices=Verdict.choices,
        error_messages={
            "required": "Choose one of the seven verdicts; nothing was recorded.",
            "invalid_choice": "Pairloop knows no such verdict; nothing was recorded. Choose one below.",
        },
    )
    reasons = forms.MultipleChoiceField(
        required=False,
        choices=[*REASONS, *CANNOT],
        error_messages={
            "invalid_choice": "Pairloop knows no such reason; nothing was recorded. Load the page again."
        },
    )
    note = forms.CharField(
        required=False,
        max_length=LONGEST_NOTE,
        error_messages={
            "max_length": f"A note may have {LONGEST_NOTE} letters; nothing was recorded. Shorten it."
        },
    )
    active_ms = forms.CharField(required=False)
    shown_at = forms.CharField(required=False)
    by = forms.CharField(required=False)
    revise = forms.BooleanField(required=False)
    guidelines = forms.CharField(required=False)
    of = forms.CharField(required=False)

    def clean_reasons(self) -> list[str]:
        """Return those that go with the verdict: a page that revises one offers both kinds."""
        reasons: list[str] = self.cleaned_data["reasons"]
        fitting = reasons_of(self.cleaned_data.get("verdict", ""))
        return [reason for reason in reasons if reason in fitting]

    def clean_active_ms(self) -> int:
        """Return the time, or 0 for nonsense: a broken clock must not cost a judgement."""
        return min(_number(self.cleaned_data["active_ms"]) or 0, MOST_MS)

    def clean_shown_at(self) -> datetime | None:
        """Return when the pair was first seen; None for nonsense, and for what a wrong clock says."""
        try:
            shown_at = parse_datetime(self.cleaned_data["shown_at"])
        except ValueError:
            return None
        now = timezone.now()
        if shown_at is None or timezone.is_naive(shown_at):
            return None
        return shown_at if now - OLDEST < shown_at < now + timedelta(minutes=5) else None

    def clean_guidelines(self) -> int | None:
        """Return which guidelines the page showed; None for nonsense."""
        return _number(self.cleaned_data["guidelines"], least=1)

    def clean_of(self) -> int | None:
        """Return the revision that the page knows of; None when it does not say."""
        return _number(self.cleaned_data["of"])

    def clean_by(self) -> str:
        """Return "key" or "button": without JavaScript it is a button."""
        return "key" if self.cleaned_data["by"] == "key" else "button"


class UndoForm(forms.Form):
    """Which revision is taken back."""

    of = forms.CharField(required=False)

    def clean_of(self) -> int | None:
        """Return it; None when the page does not say."""
        return _number(self.cleaned_data["of"])


class AttackForm(forms.Form):
    """A prompt that a labeler writes; what is in it is for the action to say."""

    prompt = forms.CharField(
        strip=False,
        max_length=100_000,
        error_messages={
            "required": "Write a prompt first.",
            "max_length": f"A prompt may have at most {prompts.LARGEST // 1024} kB.",
        },
    )


class PromptsImportForm(forms.Form):
    """Prompts as they are typed, or a file of them."""

    text = forms.CharField(
        label="Prompts, one a line, or JSON lines",
        required=False,
        max_length=2_000_000,
        strip=False,
        error_messages={"max_length": "That is more than a form should carry. Put it into a file."},
        widget=forms.Textarea(attrs={"class": "input data-text", "rows": 6, "dir": "auto"}),
    )
    file = forms.FileField(
        label="Or a file: JSONL, CSV, JSON or text",
        required=False,
        allow_empty_file=True,
        widget=forms.FileInput(attrs={"class": "input", "accept": ",".join(prompts.READERS)}),
    )
    tags = forms.CharField(
        label="Tags for all of them",
        required=False,
        max_length=1000,
        help_text="Separated by commas.",
        widget=forms.TextInput(attrs={"class": "input"}),
    )
    system = forms.CharField(
        label="System message for those that have none",
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"class": "input data-text", "rows": 2, "dir": "auto"}),
    )

    def clean_tags(self) -> list[str]:
        """Return the tags as a list."""
        parts = re.split("[,;]", self.cleaned_data["tags"])
        try:
            return prompts.tags_of([part for part in parts if part.strip()])
        except prompts.PromptRefused as refused:
            raise forms.ValidationError(str(refused)) from refused

    def clean_file(self) -> UploadedFile[bytes] | None:
        """Refuse what would not fit into memory."""
        file: UploadedFile[bytes] | None = self.cleaned_data["file"]
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if file and (file.size or 0) > most:
            raise forms.ValidationError(
                f"A file of prompts may have at most {most // 1024**2} MiB here. Split it, or use"
                " manage.py prompts_import, which takes any size."
            )
        return file

    def clean(self) -> dict[str, Any]:
        """Refuse both at once, and neither."""
        cleaned = super().clean() or {}
        has_text, has_file = bool(cleaned.get("text", "").strip()), bool(cleaned.get("file"))
        if not self.errors and has_text == has_file:
            self.add_error("text", "Type some prompts or choose a file; one of the two.")
        return cleaned

    def lines(self) -> Iterable[prompts.Numbered]:
        """Return number and value of each prompt. Raises FileRefused, also for what was typed."""
        file = self.cleaned_data["file"]
        if file:
            return prompts.file_lines(file.name, file.read())
        return prompts.pasted(self.cleaned_data["text"])


class PromptFilterForm(forms.Form):
    """Which prompts to show. What makes no sense is taken for nothing."""

    text = forms.CharField(
        label="Text",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"class": "input", "type": "search"}),
    )
    split = forms.ChoiceField(
        label="Use",
        required=False,
        choices=[("", "all"), (Split.TRAIN, "trained on"), (Split.HOLDOUT, "held out")],
        widget=forms.Select(attrs={"class": "input"}),
    )
    tag = forms.ChoiceField(
        label="Tag", required=False, widget=forms.Select(attrs={"class": "input"})
    )
    aside = forms.BooleanField(label="Set aside only", required=False)

    def __init__(self, data: MultiValueDict[str, str], *, tags: list[str]) -> None:
        """Offer the model's tags."""
        super().__init__(data, auto_id="filter_%s")
        tag = self.fields["tag"]
        if isinstance(tag, forms.ChoiceField):
            tag.choices = [("", "any"), *((name, name) for name in tags)]

    def wanted(self) -> PromptFilter:
        """Return what is asked for."""
        self.full_clean()
        return PromptFilter(
            text=self.cleaned_data.get("text", "").replace("\x00", ""),
            split=self.cleaned_data.get("split", ""),
            tag=self.cleaned_data.get("tag", ""),
            is_set_aside=self.cleaned_data.get("aside", False),
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
        choices=[("chosen_rejected", "chosen, rejected"), ("good_bad", "good, bad")],
        widget=forms.Select(attrs={"class": "input"}),
    )
    ties = forms.BooleanField(label="Ties too", required=False)
