"""What goes into the logs, and what never does: text of people and models, passwords, tokens, addresses.

One JSON object a line, or a readable line on a terminal. Code logs with the standard library as ever.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import structlog
from django.db import DatabaseError
from procrastinate import JobContext
from procrastinate.worker import Worker
from structlog.typing import EventDict, WrappedLogger

from pairloop.lib.errors import Refused

#: Fields that a line may have beside its message.
FIELDS = {"method", "route", "status", "ms", "user_id", "client"}
#: After these words gunicorn goes on with what came over the wire.
GUNICORN_QUOTES = ("Error handling request", "Invalid request")
#: Where Django tells of requests for hosts that are not ours; scanners send such all day.
HOST_REFUSED = "django.security.DisallowedHost"
#: Letters of a host that a line shows.
LONGEST_HOST = 100
#: Deeper frames of an error are the interesting ones.
MOST_FRAMES = 30
#: So that nothing in a terminal's line ends it, moves the cursor or changes colors.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def settings_of(level: str) -> dict[str, Any]:
    """Return Django's LOGGING."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"text": {"()": f"{__name__}.TextHidden"}},
        "formatters": {"line": {"()": f"{__name__}.formatter"}},
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["text"],
            }
        },
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Django brings handlers of its own, whose lines are not ours.
            "django": {"handlers": [], "propagate": True},
            "django.server": {"handlers": [], "propagate": True, "level": "WARNING"},
            # What was not found or not allowed, the line of the request says.
            "django.request": {"level": "ERROR"},
            "gunicorn.error": {"handlers": [], "propagate": True},
            # httpx logs every request; procrastinate every periodic job.
            "httpx": {"level": "WARNING"},
            "procrastinate": {"level": "WARNING"},
        },
    }


def formatter(*, is_terminal: bool | None = None) -> structlog.stdlib.ProcessorFormatter:
    """Return what makes a line of a record: readable on a terminal, else JSON."""
    readable = sys.stderr.isatty() if is_terminal is None else is_terminal
    renderers: list[structlog.typing.Processor] = (
        [_one_line, structlog.dev.ConsoleRenderer(colors=False)]
        if readable
        else [structlog.processors.JSONRenderer(sort_keys=True)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(allow=FIELDS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _error_told,
            *renderers,
        ],
    )


class TextHidden(logging.Filter):
    """Take out of a message what may quote text: paths of requests, and other people's words of errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, some of them with fewer words."""
        if record.name == HOST_REFUSED:
            _host_told(record)
        arguments = record.args if isinstance(record.args, tuple) else ()
        if record.name.startswith("django.") and hasattr(record, "request"):
            # The path comes last; it may hold a token.
            record.msg = str(record.msg).partition(": %s")[0] if arguments else record.msg
            arguments = arguments[: str(record.msg).count("%s")]
        if record.name == "gunicorn.error" and str(record.msg).startswith(GUNICORN_QUOTES):
            record.msg, arguments = (
                next(words for words in GUNICORN_QUOTES if str(record.msg).startswith(words)),
                (),
            )
        if arguments or not isinstance(record.args, dict):
            record.args = tuple(map(_told, arguments))
        return True


async def job_bound(
    call_next: Callable[[], Awaitable[Any]], context: JobContext, _worker: Worker
) -> Any:
    """Put a job's id on every line that is written while it runs."""
    job = context.job
    with structlog.contextvars.bound_contextvars(job_id=job.id, task=job.task_name):
        return await call_next()


def _host_told(record: logging.LogRecord) -> None:
    """Make a warning of an error that nobody here made; where in Django it was found helps nobody."""
    request = getattr(record, "request", None)
    host = str(request.META.get("HTTP_HOST", "")) if request else ""
    record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
    record.exc_info = record.exc_text = None
    record.msg = f"Refused a request for the host {host[:LONGEST_HOST]!r}, which PAIRLOOP_HOSTS does not name"
    record.args = ()


def _error_told(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Say which error it was and where; its words only when they are ours, or the database's first line.

    Anything else may quote what was worked on. PostgreSQL quotes whole rows in its later lines.
    """
    found = line.pop("exc_info", None)
    if not isinstance(found, tuple) or found[1] is None:
        return line
    error: BaseException = found[1]
    line["error"] = _name(error)
    if (why := _told(error)) != line["error"]:
        line["why"] = why
    line["trace"] = _frames(found[2])
    if cause := error.__cause__ or error.__context__:
        line["cause"] = _name(cause)
        line["cause_trace"] = _frames(cause.__traceback__)
    return line


def _told(argument: object) -> object:
    """Return what may be said of a message's argument: of an error, its words or its name alone."""
    if isinstance(argument, Refused):
        return str(argument)
    if isinstance(argument, DatabaseError | OSError):
        return _first_line(argument)
    return _name(argument) if isinstance(argument, BaseException) else argument


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _first_line(error: BaseException) -> str:
    """Return an error's first line, without what stands in quotation marks: values do."""
    first = (str(error).strip().splitlines() or [""])[0]
    words = first.split('"')
    # PostgreSQL quotes names of its own as it quotes values; a name is one plain word.
    return '"'.join(
        word if index % 2 == 0 or word.replace("_", "").isalnum() else "…"
        for index, word in enumerate(words)
    )


def _frames(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-MOST_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _one_line(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Escape control characters, which JSON does by itself."""
    return {
        key: value.translate(CONTROLS) if isinstance(value, str) else value
        for key, value in line.items()
    }
