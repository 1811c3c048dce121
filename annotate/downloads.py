"""Triples as a download, for pages and for REST."""

from __future__ import annotations

from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from annotate import exports
from annotate.models import Pair
from models_registry.models import RegisteredModel


def triples_download(
    *, model: RegisteredModel, pairs: QuerySet[Pair, Pair], file_format: str, ties: bool, keys: str
) -> StreamingHttpResponse:
    """Answer with the triples of some of a model's pairs, as a file that is written; a browser saves it and never shows it."""
    pieces = exports.triples_export(pairs=pairs, file_format=file_format, ties=ties, keys=keys)
    response = StreamingHttpResponse(pieces, content_type=exports.MEDIA_TYPES[file_format])
    response["Content-Disposition"] = f'attachment; filename="{model.slug}-triples.{file_format}"'
    return response
