"""Triples as a download, for pages and for REST."""

from __future__ import annotations

from django.http import StreamingHttpResponse

from annotate import exports
from models_registry.models import RegisteredModel


def triples_download(
    *, model: RegisteredModel, file_format: str, ties: bool, keys: str
) -> StreamingHttpResponse:
    """Answer with the file as it is written; a browser saves it and never shows it."""
    pieces = exports.triples_export(model=model, file_format=file_format, ties=ties, keys=keys)
    response = StreamingHttpResponse(pieces, content_type=exports.MEDIA_TYPES[file_format])
    response["Content-Disposition"] = f'attachment; filename="{model.slug}-triples.{file_format}"'
    return response
