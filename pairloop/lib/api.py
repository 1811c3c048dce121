"""What every API view shares: one shape of error, who may call, and how lists are filtered and paged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import RequestDataTooBig
from django.db.models import QuerySet
from django_filters import NumberFilter
from django_filters.rest_framework import DjangoFilterBackend, FilterSet
from drf_spectacular.utils import extend_schema_field
from rest_framework import request, status
from rest_framework.exceptions import APIException, PermissionDenied, Throttled, ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.pagination import PageNumberPagination
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from pairloop.lib import bodies
from pairloop.lib.errors import Refused


class Request(request.Request):
    """A request of somebody who is logged in: every view of ours asks for that."""

    user: User


class MemberView(APIView):
    """Open to whoever is logged in; the query behind it decides which objects they find."""

    permission_classes = [IsAuthenticated]


class UnknownFilter(APIException):
    """A list was asked for what it does not offer."""

    status_code = status.HTTP_400_BAD_REQUEST
    default_code = "unknown_filter"


def query_check(asked: request.Request, *, known: Iterable[str]) -> None:
    """Raise UnknownFilter unless all that stands behind the "?" is known: a typo must not return everything."""
    known = sorted(known)
    if unknown := sorted(set(asked.query_params) - set(known)):
        raise UnknownFilter(f"There is no filter {unknown[0]!r} here. Use {', '.join(known)}.")


class Page(PageNumberPagination):
    """Fifty rows, or as many as are asked for, up to 200."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200

    def get_page_size(self, request: request.Request) -> int:
        """Return how many rows fit; a wrong number is refused, not replaced."""
        asked = request.query_params.get(self.page_size_query_param, str(self.page_size))
        size = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 4 else 0
        if not 1 <= size <= self.max_page_size:
            raise ValidationError({"page_size": [f"Use 1 to {self.max_page_size}."]})
        return size

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Describe both numbers with their bounds."""
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            parameter["schema"]["minimum"] = 1
            if parameter["name"] == self.page_size_query_param:
                parameter["schema"] |= {"maximum": self.max_page_size, "default": self.page_size}
        return parameters


class Filters(DjangoFilterBackend):  # type: ignore[misc]
    """Filters by what the view's filterset lists, and refuses everything else."""

    def filter_queryset(
        self, request: request.Request, queryset: QuerySet[Any], view: ListView
    ) -> QuerySet[Any]:
        """Filter and order the rows."""
        offered = view.filterset_class.base_filters if view.filterset_class else {}
        query_check(request, known=[*offered, Page.page_query_param, Page.page_size_query_param])
        filtered: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return filtered


def number_filter(*, most: int, **how: Any) -> NumberFilter:
    """Return a filter by a whole number from 0, which says so in the API's description."""
    found = NumberFilter(min_value=0, max_value=most, decimal_places=0, **how)
    bounds = {"type": "integer", "minimum": 0, "maximum": most}
    described: NumberFilter = extend_schema_field(bounds)(found)
    return described


class ListView(GenericAPIView[Any]):
    """A list of rows, filtered and in pages; for staff unless it says otherwise.

    `queryset` names the kind of rows for the API's description; which ones there are, `get` says.
    """

    pagination_class = Page
    filter_backends = [Filters]
    filterset_class: type[FilterSet] | None = None

    def page_of(self, rows: QuerySet[Any]) -> list[Any]:
        """Return the rows that were asked for."""
        return list(self.paginate_queryset(self.filter_queryset(rows)) or [])


def error_answer(error: Exception, context: dict[str, Any]) -> Response | None:
    """Answer every anticipated error as {"detail": sentence, "code": snake_case}."""
    if isinstance(error, Refused):
        return Response({"detail": str(error), "code": error.code}, status=status.HTTP_409_CONFLICT)
    if isinstance(error, RequestDataTooBig):
        error = bodies.too_large()
    answer = exception_handler(error, context)
    if answer is None:
        return None
    if isinstance(error, PermissionDenied) and _is_labeler(context):
        # As on the pages: to labelers, what is not theirs does not exist.
        return Response(
            {"detail": "Not found.", "code": "not_found"}, status=status.HTTP_404_NOT_FOUND
        )
    if isinstance(error, APIException):
        answer.data = {"detail": _detail(error), "code": _code(error)}
    else:
        # Django's own: the object is missing, or the user may not see it.
        is_missing = answer.status_code == status.HTTP_404_NOT_FOUND
        answer.data["code"] = "not_found" if is_missing else "permission_denied"
    return answer


def _detail(error: APIException) -> str:
    if isinstance(error, Throttled):
        return "Too many requests in this minute. Wait as many seconds as Retry-After says, then go on."
    return _sentence(error.detail)


def _code(error: APIException) -> str:
    if isinstance(error, Throttled):
        return "too_many_requests"
    if isinstance(error, ValidationError):
        return "invalid"
    return str(error.default_code)


def _is_labeler(context: dict[str, Any]) -> bool:
    """Whether somebody is logged in whom staff's routes refuse; a missing CSRF token is another matter."""
    user = context["request"].user
    return bool(user and user.is_authenticated and not user.is_staff)


def _sentence(detail: Any) -> str:
    """Say which field is wrong and why, in one line."""
    if isinstance(detail, dict):
        return " ".join(
            _sentence(why) if field == "non_field_errors" else f"{field}: {_sentence(why)}"
            for field, why in detail.items()
        )
    if isinstance(detail, list):
        return " ".join(_sentence(why) for why in detail)
    return str(detail)
