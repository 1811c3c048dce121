"""One's own tokens over REST."""

from __future__ import annotations

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response

from pairloop.accounts import actions, queries
from pairloop.accounts.api.serializers import MadeOut, TokenIn, TokenOut
from pairloop.accounts.models import Token
from pairloop.lib.api import ListView, MemberView, Request


class TokensView(ListView):
    """The tokens of whoever asks."""

    permission_classes = [IsAuthenticated]
    queryset = Token.objects.none()

    @extend_schema(responses=TokenOut(many=True))
    def get(self, request: Request) -> Response:
        """List your tokens, the newest first."""
        page = self.page_of(queries.tokens_of(request.user))
        return self.get_paginated_response(TokenOut(page, many=True).data)

    @extend_schema(request=TokenIn, responses={201: MadeOut})
    def post(self, request: Request) -> Response:
        """Make a token; the answer is the only time its secret is told.

        A token made with a token ends no later than that one.
        """
        asked = TokenIn(data=request.data)
        asked.is_valid(raise_exception=True)
        by = request.auth if isinstance(request.auth, Token) else None
        token, secret = actions.token_create(
            user=request.user, by=by, now=timezone.now(), **asked.validated_data
        )
        made = MadeOut(token, context={"secret": secret})
        return Response(made.data, status=status.HTTP_201_CREATED)


class TokenView(MemberView):
    """One of them."""

    @extend_schema(responses={204: None})
    def delete(self, request: Request, key: str) -> Response:
        """Revoke one of your tokens; `key` is how it begins."""
        try:
            actions.token_revoke(user=request.user, key=key)
        except Token.DoesNotExist as missing:
            raise Http404 from missing
        return Response(status=status.HTTP_204_NO_CONTENT)
