"""A version as files to download; its page and the REST API answer with the same."""

from __future__ import annotations

from django.http import HttpResponse, StreamingHttpResponse  # noqa: TID251 views and API views share it

from models_registry import exports
from models_registry.models import ModelVersion
from training.cards import card_of


def card_file(version: ModelVersion) -> HttpResponse:
    """Answer with the card, as the README.md of an export."""
    name = f"{version.model.slug}-{version.label}.md"
    return HttpResponse(
        card_of(version).text,
        content_type="text/markdown; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def adapter_file(version: ModelVersion) -> StreamingHttpResponse:
    """Answer with the PEFT folder as a zip. Raises ExportRefused before anything is sent."""
    name, pieces = exports.adapter_archive(version=version, card=card_of(version).text)
    return StreamingHttpResponse(
        pieces,
        content_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
