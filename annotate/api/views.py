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
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import request, status
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from annotate import actions, prompts, queries, triples
from annotate.api.filters import (
    TRIPLE_PARAMETERS,
    JudgementFilter,
    PromptFilter,
    triple_pairs,
)
from annotate.api.serializers import (
    AssignmentOut,
    JudgementIn,
    JudgementOut,
    PromptOut,
    PromptsImportOut,
    StandingOut,
    TriplesIn,
)
from annotate.models import Assignment, Judgement, Pair, Prompt
from models_registry.lookup import model_for
from pairloop.lib.api import ListView, MemberView, Request


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

    parser_classes = [JSONParser, JSONLParser]
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
        },
        responses=PromptsImportOut,
    )
    def post(self, request: Request, slug: str) -> Response:
        """Import prompts, a JSON list or JSON lines; good ones stay whatever the bad ones are."""
        model = model_for(request.user, slug)
        report = actions.prompts_import(model=model, lines=_numbered(request))
        return Response(PromptsImportOut(report).data)


class AssignmentsView(MemberView):
    """The labeler's next pair of a model."""

    @extend_schema(request=None, responses={201: AssignmentOut, 204: None})
    def post(self, request: Request, slug: str) -> Response:
        """Lease a pair, or return the one that is leased to you already; 204 when none waits."""
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

    @extend_schema(request=JudgementIn, responses={201: JudgementOut, 200: JudgementOut})
    def post(self, request: Request, uuid: UUID) -> Response:
        """Judge your assignment; repeated, the answer is what stands."""
        assignment = _assignment_for(request.user, uuid)
        said = JudgementIn(data=request.data)
        said.is_valid(raise_exception=True)
        judgement, is_new = actions.judgement_record(
            assignment=assignment, now=timezone.now(), **said.validated_data
        )
        code = status.HTTP_201_CREATED if is_new else status.HTTP_200_OK
        return Response(JudgementOut(judgement).data, status=code)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, uuid: UUID) -> Response:
        """Take your judgement back; the pair is your next assignment again."""
        assignment = _assignment_for(request.user, uuid)
        actions.judgement_undo(assignment=assignment, now=timezone.now())
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

    media_type = "application/jsonl"
    format = "jsonl"


class TriplesView(APIView):
    """The triples of a model, as files for trainers have them."""

    renderer_classes = [JSONLRenderer, JSONRenderer]

    @extend_schema(
        parameters=[TriplesIn, *TRIPLE_PARAMETERS],
        responses={(200, "application/jsonl"): OpenApiTypes.STR},
    )
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Stream a model's triples, one a line; those that are ties only when asked for.

        `since` is the id of a judgement: only triples that a later one speaks of. Remember the highest of a
        triple's `judgements` to ask for what came after.
        """
        model = model_for(request.user, slug)
        pairs = triple_pairs(
            request, triples.triple_pairs(model=model), others=["format", "ties", "keys"]
        )
        asked = TriplesIn(data=request.query_params)
        asked.is_valid(raise_exception=True)
        lines = _lines(pairs, **asked.validated_data)
        return StreamingHttpResponse(lines, content_type=JSONLRenderer.media_type)

    def perform_content_negotiation(
        self, request: request.Request, force: bool = False
    ) -> tuple[BaseRenderer, str]:
        """Answer refusals in JSON; the lines are streamed past the renderers."""
        super().perform_content_negotiation(request, force)
        return JSONRenderer(), JSONRenderer.media_type


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
