"""The REST API of judging, of prompts, and of triples in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any
from uuid import UUID

from django.contrib.auth.models import User
from django.http import Http404, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import request, status
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from annotate import actions, exports, imports, judging, prompts, queries, triples, weak
from annotate.api.filters import (
    TRIPLE_PARAMETERS,
    JudgementFilter,
    PromptFilter,
    triple_pairs,
)
from annotate.api.serializers import (
    AssignmentOut,
    AttackIn,
    AttackOut,
    ImportOut,
    JudgementIn,
    JudgementOut,
    PromptOut,
    PromptsImportOut,
    StandingOut,
    TriplesIn,
)
from annotate.downloads import triples_download
from annotate.models import Assignment, Import, Judgement, Prompt
from models_registry.lookup import model_for
from pairloop.lib.api import ListView, MemberView, Request
from pairloop.lib.bodies import JSONParser, body_of
from pairloop.lib.errors import Refused


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
        try:
            return Lines(list(prompts.file_lines(self.filename, body_of(stream))))
        except prompts.FileRefused as refused:
            raise ParseError(str(refused)) from refused


class CSVParser(JSONLParser):
    """Reads the columns prompt, system and tags."""

    media_type = "text/csv"
    filename = "body.csv"


#: For the API's description. Lines are not described further: bad ones are reported, not refused.
PROMPTS_IN = {
    "type": "array",
    "items": {},
    "example": [
        {"prompt": "Name three primes.", "tags": ["maths"]},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi!"},
            ]
        },
    ],
}


class PromptsView(ListView):
    """The prompts of a model."""

    parser_classes = [JSONParser, JSONLParser, CSVParser]
    queryset = Prompt.objects.none()
    filterset_class = PromptFilter

    @extend_schema(responses=PromptOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List a model's prompts, the newest first."""
        page = self.page_of(queries.prompts_of(model_for(request.user, slug)))
        return self.get_paginated_response(PromptOut(page, many=True).data)

    @extend_schema(
        request={
            JSONParser.media_type: PROMPTS_IN,
            JSONLParser.media_type: OpenApiTypes.STR,
            CSVParser.media_type: OpenApiTypes.STR,
        },
        responses=PromptsImportOut,
    )
    def post(self, request: Request, slug: str) -> Response:
        """Import prompts, a JSON list, JSON lines or CSV; good ones stay whatever the bad ones are."""
        model = model_for(request.user, slug)
        report = actions.prompts_import(model=model, lines=_numbered(request))
        return Response(PromptsImportOut(report).data)


class AttacksView(MemberView):
    """Prompts that labelers write to see the model fail."""

    @extend_schema(request=AttackIn, responses={201: AttackOut})
    def post(self, request: Request, slug: str) -> Response:
        """Have a prompt of yours answered at once; its pair is your next assignment."""
        model = model_for(request.user, slug)
        said = AttackIn(data=request.data)
        said.is_valid(raise_exception=True)
        prompt = weak.attack_prompt_add(
            model=model,
            author=request.user,
            text=said.validated_data["prompt"],
            now=timezone.now(),
        )
        answer = {"prompt": prompt.question, "seconds": weak.attack_seconds(model)}
        return Response(AttackOut(answer).data, status=status.HTTP_201_CREATED)


class AssignmentsView(MemberView):
    """The labeler's next pair of a model."""

    @extend_schema(request=None, responses={201: AssignmentOut, 204: None})
    def post(self, request: Request, slug: str) -> Response:
        """Lease a pair, or return the one that is leased to you already; 204 when none waits."""
        model = model_for(request.user, slug)
        try:
            assignment = judging.pair_assign(
                model_id=model.pk, labeler=request.user, now=timezone.now()
            )
        except judging.QueueEmpty:
            return Response(status=status.HTTP_204_NO_CONTENT)
        context = {"guidelines_version": queries.policy_loaded(assignment).guidelines_version}
        answer = AssignmentOut(assignment, context=context)
        return Response(answer.data, status=status.HTTP_201_CREATED)


class JudgedAlready(Refused):
    """You judged this pair already and said something else. Send "revise": true to change it, or DELETE it first."""

    code = "judged_already"


class JudgementView(MemberView):
    """What a labeler says about their assignment."""

    @extend_schema(request=JudgementIn, responses={201: JudgementOut, 200: JudgementOut})
    def post(self, request: Request, uuid: UUID) -> Response:
        """Judge your assignment; 201 when something new stands, 200 when it stood already.

        Repeating a judgement changes nothing. Another verdict, other reasons or another note than those that
        stand are refused with 409 `judged_already`, unless `revise` is true: then they become a new revision.
        """
        assignment = _assignment_for(request.user, uuid)
        said = JudgementIn(data=request.data)
        said.is_valid(raise_exception=True)
        recorded = judging.judgement_record(
            assignment=assignment, now=timezone.now(), **said.validated_data
        )
        if not recorded.is_new and not _says(recorded.judgement, said.validated_data):
            raise JudgedAlready
        code = status.HTTP_201_CREATED if recorded.is_new else status.HTTP_200_OK
        return Response(JudgementOut(recorded.judgement).data, status=code)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, uuid: UUID) -> Response:
        """Take your judgement back; the pair is your next assignment again."""
        assignment = _assignment_for(request.user, uuid)
        judging.judgement_undo(assignment=assignment, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class JudgementsView(ListView):
    """The judgements of a model that stand."""

    queryset = Judgement.objects.none()
    filterset_class = JudgementFilter

    @extend_schema(responses=StandingOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List a model's standing judgements, the newest first; `since` is the id of one."""
        page = self.page_of(queries.judgements_of(model_for(request.user, slug)))
        return self.get_paginated_response(StandingOut(page, many=True).data)


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

    @extend_schema(
        parameters=[TriplesIn, *TRIPLE_PARAMETERS],
        responses={
            (200, exports.MEDIA_TYPES[exports.JSONL]): OpenApiTypes.STR,
            (200, exports.MEDIA_TYPES[exports.PARQUET]): OpenApiTypes.BINARY,
        },
    )
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Stream a model's triples as JSONL or Parquet; those that are ties only when asked for.

        `since` is the id of a judgement: only triples that a later one speaks of, hence none that came with a file.
        Remember the highest of a triple's `judgements` to ask for what came after.
        """
        model = model_for(request.user, slug)
        pairs = triple_pairs(
            request, triples.triple_pairs(model=model), others=["format", "ties", "keys"]
        )
        asked = TriplesIn(data=request.query_params)
        asked.is_valid(raise_exception=True)
        return triples_download(
            model=model,
            pairs=pairs,
            file_format=exports.PARQUET if self.is_parquet else exports.JSONL,
            **asked.validated_data,
        )

    @extend_schema(
        request={
            parser.media_type: OpenApiTypes.BINARY
            for parser in (JSONLFileParser, ParquetFileParser, AnyFileParser)
        },
        responses={202: ImportOut},
    )
    def post(self, request: Request, slug: str) -> Response:
        """Import triples from JSONL or Parquet, later; `imports/<number>/` tells how far it is."""
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

    @extend_schema(responses=ImportOut)
    def get(self, request: Request, slug: str, number: int) -> Response:
        """Tell how far an import is and what came of it."""
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


def _says(stands: Judgement, said: dict[str, Any]) -> bool:
    """Whether a judgement is what was said; the time that it took may differ."""
    return (
        stands.verdict == said["verdict"]
        and sorted(stands.reasons) == sorted(said["reasons"])
        and stands.note == said["note"]
    )


def _assignment_for(user: User, uuid: UUID) -> Assignment:
    try:
        return queries.assignment_of(labeler=user, uuid=uuid)
    except Assignment.DoesNotExist as missing:
        raise Http404 from missing
