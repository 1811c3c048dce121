"""What every API view shares: one shape of error, and who may call."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from rest_framework import request, status
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from pairloop.lib.errors import Refused


class Request(request.Request):
    """A request of somebody who is logged in: every view of ours asks for that."""

    user: User


class MemberView(APIView):
    """Open to whoever is logged in; the query behind it decides which objects they find."""

    permission_classes = [IsAuthenticated]


def error_answer(error: Exception, context: dict[str, Any]) -> Response | None:
    """Answer every anticipated error as {"detail": sentence, "code": snake_case}."""
    if isinstance(error, Refused):
        return Response({"detail": str(error), "code": error.code}, status=status.HTTP_409_CONFLICT)
    answer = exception_handler(error, context)
    if answer is None:
        return None
    if isinstance(error, ValidationError):
        answer.data = {"detail": _sentence(error.detail), "code": "invalid"}
    elif isinstance(error, PermissionDenied) and _is_labeler(context):
        # As on the pages: to labelers, what is not theirs does not exist.
        answer = Response(
            {"detail": "Not found.", "code": "not_found"}, status=status.HTTP_404_NOT_FOUND
        )
    elif isinstance(error, APIException):
        answer.data = {"detail": str(error.detail), "code": str(error.default_code)}
    else:
        # Django's own: the object is missing, or the user may not see it.
        is_missing = answer.status_code == status.HTTP_404_NOT_FOUND
        answer.data["code"] = "not_found" if is_missing else "permission_denied"
    return answer


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
