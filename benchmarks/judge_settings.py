"""Pairloop's settings, with every statement counted: `bench_judge` alone uses them, and not while it takes times."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

import psycopg
from django.http import HttpRequest, HttpResponseBase

from pairloop.lib.statements import Statement
from pairloop.settings import *  # noqa: F403
from pairloop.settings import MIDDLEWARE

_counted = threading.local()


class Counting:
    """Middleware: the answer says how many statements it took, and how many commands that frame a transaction.

    Counted where they are sent, so the check of an old connection counts, too.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        """Take what comes behind."""
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer."""
        _counted.statements = _counted.frames = 0
        response = self._get_response(request)
        response["X-Statements"] = f"{_counted.statements} {_counted.frames}"
        return response


def _count(name: str) -> None:
    setattr(_counted, name, getattr(_counted, name, 0) + 1)


def _execute(self: psycopg.Cursor[Any], *arguments: Any, **named: Any) -> Any:
    # A connection learns each statement once; that is no part of what a request asks.
    if not str(arguments[0]).startswith("PREPARE "):
        _count("statements")
    return _plain_execute(self, *arguments, **named)


def _frame(self: psycopg.Connection[Any], command: bytes, *rest: Any) -> Generator[Any, Any, Any]:
    _count("frames")
    return (yield from _plain_frame(self, command, *rest))


def _directly(self: Statement, *arguments: Any) -> Any:
    _count("statements")
    return _plain_directly(self, *arguments)


_plain_execute = psycopg.Cursor.execute
_plain_frame = psycopg.Connection._exec_command  # noqa: SLF001 BEGIN and COMMIT go nowhere else
_plain_directly = Statement._directly  # noqa: SLF001 what bypasses a cursor
psycopg.Cursor.execute = _execute  # type: ignore[method-assign]
Statement._directly = _directly  # type: ignore[method-assign]  # noqa: SLF001
psycopg.Connection._exec_command = _frame  # type: ignore[method-assign]  # noqa: SLF001

MIDDLEWARE = ["benchmarks.judge_settings.Counting", *MIDDLEWARE]
