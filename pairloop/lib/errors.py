"""The root of every anticipated "no"."""

from __future__ import annotations


class Refused(Exception):
    """Pairloop refused this."""

    #: For machines; stable, snake_case.
    code = "refused"

    def __init__(self, message: str | None = None) -> None:
        """Take a sentence that says what to do; the class docstring is the default one."""
        super().__init__(message or (self.__doc__ or "").strip())
