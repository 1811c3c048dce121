"""The REST API of judging, of prompts, and of triples in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.http import Http404, HttpResponseBase
from django.utils import timezone
from rest_framework import request, status
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from annotate import actions, exports, imports, prompts, queries
from annotate.api.serializers import (
    AssignmentOut,
    ImportOut,
    JudgementIn,
    JudgementOut,
    PromptsImportOut,
    TriplesIn,
)
from annotate.downloads import triples_download
from annotate.models import Assignment, Import
from models_registry.lookup import model_for
from pairloop.lib.api import MemberView, Request


class Lines(dict[str, Any]):
    """The numbered lines of a JSONL body; a dict, since that is what parsers return."""

    def __init__(self, numbered: list[tuple[int, Any]]) -> None:
        """Take the lines."""
        super().__init__()
        self.numbered = numbered


class JSONLParser(BaseParser):
    """Reads one JSON value a line; what is not JSON is reported by its number, not refused as a whole."""

    media_type = "application/jsonl"
    filename = "body.jsonl"

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, context: object = None
    ) -> Lines:
        """Return number and value of each line."""
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body = stream.read(most + 1)
        if len(body) > most:
            raise ParseError(f"The body is larger than {most // 1024**2} MiB. Send it in parts.")
        try:
            return Lines(list(prompts.file_lines(self.filename, body)))
        except prompts.FileRefused as refused:
            raise ParseError(str(refused)) from refused


class CSVParser(JSONLParser):
    """Reads the columns prompt, system and tags."""

    media_type = "text/csv"
    filename = "body.csv"


class PromptsView(APIView):
    """The prompts of a model."""

    parser_classes = [JSONParser, JSONLParser, CSVParser]

    def post(self, request: Request, slug: str) -> Response:
        """Import a JSON list, JSON lines or CSV; good ones stay whatever the bad ones are."""
        model = model_for(request.user, slug)
        report = actions.prompts_import(model=model, lines=_numbered(request))
        return Response(PromptsImportOut(report).data)


class AssignmentsView(MemberView):
    """The labeler's next pair of a model."""

    def post(self, request: Request, slug: str) -> Response:
        """Lease a pair, or return the one that is leased to them already; 204 when none waits."""
        model = model_for(request.user, slug)
        try:
            assignment = actions.pair_assign(model=model, labeler=request.user, now=timezone.now())
        except actions.QueueEmpty:
            return Response(status=status.HTTP_204_NO_CONTENT)
        context = {"guidelines_version": queries.policy_of(model).guidelines_version}
        answer = AssignmentOut(assignment, context=context)
        return Response(answer.data, status=status.HTTP_201_CREATED)


class JudgementView(MemberView):
    """What a labeler says about their assignment."""

    def post(self, request: Request, uuid: UUID) -> Response:
        """Record it; repeated, the answer is what stands."""
        assignment = _assignment_for(request.user, uuid)
        said = JudgementIn(data=request.data)
        said.is_valid(raise_exception=True)
        judgement, is_new = actions.judgement_record(
            assignment=assignment, now=timezone.now(), **said.validated_data
        )
        code = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
        return Response(JudgementOut(judgement).data, status=code)

    def delete(self, request: Request, uuid: UUID) -> Response:
        """Take it back; the pair is their next assignment again."""
        assignment = _assignment_for(request.user, uuid)
        actions.judgement_undo(assignment=assignment, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class JSONLRenderer(JSONRenderer):
    """Lets a client ask for JSON lines by name."""

    media_type = exports.MEDIA_TYPES[exports.JSONL]
    format = exports.JSONL


class ParquetRenderer(JSONRenderer):
    """Lets a client ask for Parquet by name."""

    media_type = exports.MEDIA_TYPES[exports.PARQUET]
    format = exports.PARQUET


class FileBody(dict[str, Any]):
    """A body that nobody has read yet; a dict, since that is what parsers return."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Take what to read."""
        super().__init__()
        self.stream = stream

    def pieces(self) -> Iterator[bytes]:
        """Yield the body in pieces of 64 kB."""
        while piece := self.stream.read(65_536):
            yield piece


class JSONLFileParser(BaseParser):
    """Passes a file on as it comes."""

    media_type = exports.MEDIA_TYPES[exports.JSONL]

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, context: object = None
    ) -> FileBody:
        """Return what reads it."""
        return FileBody(stream)


class ParquetFileParser(JSONLFileParser):
    """The same for Parquet."""

    media_type = exports.MEDIA_TYPES[exports.PARQUET]


class AnyFileParser(JSONLFileParser):
    """The same for clients that do not know what they send."""

    media_type = "application/octet-stream"


class TriplesView(APIView):
    """The triples of a model, as files for trainers have them."""

    renderer_classes = [JSONLRenderer, JSONRenderer, ParquetRenderer]
    parser_classes = [JSONLFileParser, ParquetFileParser, AnyFileParser]

    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Stream all triples as JSONL or, with `?format=parquet`, as Parquet; ties only when asked for."""
        model = model_for(request.user, slug)
        asked = TriplesIn(data=request.query_params)
        asked.is_valid(raise_exception=True)
        return triples_download(
            model=model,
            file_format=exports.PARQUET if self.is_parquet else exports.JSONL,
            **asked.validated_data,
        )

    def post(self, request: Request, slug: str) -> Response:
        """Take JSONL or Parquet and queue its import; `imports/<id>/` tells how far it is."""
        model = model_for(request.user, slug)
        body = request.data.pieces() if isinstance(request.data, FileBody) else iter(())
        started = imports.import_start(
            model=model, by=request.user, filename="REST API", pieces=body
        )
        return Response(ImportOut(started).data, status=status.HTTP_202_ACCEPTED)

    def perform_content_negotiation(
        self, request: request.Request, force: bool = False
    ) -> tuple[BaseRenderer, str]:
        """Note which file is asked for; whatever is no file is JSON, errors too."""
        found, _ = super().perform_content_negotiation(request, force)
        self.is_parquet = isinstance(found, ParquetRenderer)
        return JSONRenderer(), JSONRenderer.media_type


class ImportView(APIView):
    """An import of preference pairs."""

    def get(self, request: Request, slug: str, number: int) -> Response:
        """Return how far it is and what came of it."""
        model = model_for(request.user, slug)
        try:
            found = queries.import_of(model=model, import_id=number)
        except Import.DoesNotExist as missing:
            raise Http404 from missing
        return Response(ImportOut(found).data)


def _numbered(request: Request) -> Iterable[tuple[int, Any]]:
    """Return number and value of each line of the body, whichever form it came in."""
    if isinstance(request.data, Lines):
        return request.data.numbered
    if not isinstance(request.data, list):
        raise ValidationError('Send a list such as [{"prompt": "…"}].')
    return enumerate(request.data, start=1)


def _assignment_for(user: User, uuid: UUID) -> Assignment:
    try:
        return queries.assignment_of(labeler=user, uuid=uuid)
    except Assignment.DoesNotExist as missing:
        raise Http404 from missing
