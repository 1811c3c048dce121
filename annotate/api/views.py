"""The REST API of judging, and the export of triples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import Http404, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from rest_framework import status
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from annotate import actions, prompts, queries, triples
from annotate.api.serializers import AssignmentOut, JudgementIn, JudgementOut, TriplesIn
from annotate.models import Assignment, Pair
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

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, context: object = None
    ) -> Lines:
        """Return number and value of each line."""
        try:
            return Lines(list(prompts.lines_of(stream.read().decode("utf-8-sig"))))
        except UnicodeDecodeError as error:
            raise ParseError("The body is not UTF-8 text.") from error


class PromptsView(APIView):
    """The prompts of a model."""

    parser_classes = [JSONParser, JSONLParser]

    def post(self, request: Request, slug: str) -> Response:
        """Import a JSON list or JSON lines; good ones stay whatever the bad ones are."""
        model = model_for(request.user, slug)
        report = actions.prompts_import(model=model, lines=_numbered(request))
        return Response(
            {
                "created": report.created,
                "duplicates": report.duplicates,
                "rejected": [
                    {"line": number, "reason": reason} for number, reason in report.rejected
                ],
            }
        )


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

    media_type = "application/jsonl"
    format = "jsonl"


class TriplesView(APIView):
    """The triples of a model, as files for trainers have them."""

    renderer_classes = [JSONLRenderer, JSONRenderer]

    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Stream one triple a line; those that are ties only when asked for."""
        model = model_for(request.user, slug)
        asked = TriplesIn(data=request.query_params)
        asked.is_valid(raise_exception=True)
        lines = _lines(triples.triple_pairs(model=model), **asked.validated_data)
        return StreamingHttpResponse(lines, content_type=JSONLRenderer.media_type)


def _numbered(request: Request) -> Iterable[tuple[int, Any]]:
    """Return number and value of each line of the body, whichever form it came in."""
    if isinstance(request.data, Lines):
        return request.data.numbered
    if not isinstance(request.data, list):
        raise ValidationError('Send a list such as [{"prompt": "…"}].')
    return enumerate(request.data, start=1)


def _lines(pairs: QuerySet[Pair, Pair], *, ties: bool, keys: str) -> Iterator[str]:
    good, bad = keys.split("_")
    for triple in triples.triples_of(pairs):
        if ties or triple.target > 0.5:
            yield json.dumps(triple.line(good=good, bad=bad), ensure_ascii=False) + "\n"


def _assignment_for(user: User, uuid: UUID) -> Assignment:
    try:
        return queries.assignment_of(labeler=user, uuid=uuid)
    except Assignment.DoesNotExist as missing:
        raise Http404 from missing
