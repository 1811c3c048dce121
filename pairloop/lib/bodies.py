"""What comes in over REST, and how much of it. Apart from lib/api.py, which the framework's settings cannot import."""

from __future__ import annotations

from io import BytesIO
from typing import IO, Any

from django.conf import settings
from rest_framework import parsers
from rest_framework.exceptions import ParseError


def body_of(stream: IO[bytes]) -> bytes:
    """Return a request's body. Raises ParseError for one that is larger than any of ours should be."""
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body = stream.read(most + 1)
    if len(body) > most:
        raise too_large()
    return body


def too_large() -> ParseError:
    """Return what is said about a body that is larger."""
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE // 1024**2
    return ParseError(f"The body is larger than {most} MiB. Send it in parts.")


class JSONParser(parsers.JSONParser):
    """Reads JSON, but not without end: Django bounds only what it reads by itself."""

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None
    ) -> Any:
        """Return the value."""
        return super().parse(BytesIO(body_of(stream)), media_type, parser_context)
