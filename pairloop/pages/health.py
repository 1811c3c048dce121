"""Whether Pairloop can serve, and how its parts are: what probes and operators ask."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from models_registry.queries import engine_progress
from pairloop.lib import files
from pairloop.lib.errors import Refused

#: A worker says every ten seconds that it lives.
SILENT_S = 60
#: Waiting longer than this, a job waits for a worker that is stuck. Rounds may: they run one after another.
LONGEST_WAIT_S = 600
#: PostgreSQL stops in the middle of work when the disk is full; `manage.py up` does not start below this.
LEAST_FREE = 1 << 30

WAITING = """
    SELECT job.queue_name, count(*),
           extract(epoch FROM now() - min(coalesce(job.scheduled_at, event.at)))::float
    FROM procrastinate_jobs job
    LEFT JOIN procrastinate_events event ON event.job_id = job.id AND event.type = 'deferred'
    WHERE job.status = 'todo' AND (job.scheduled_at IS NULL OR job.scheduled_at <= now())
    GROUP BY job.queue_name
"""
BEATS = """
    SELECT count(*) FILTER (WHERE last_heartbeat > now() - make_interval(secs => %s)),
           extract(epoch FROM now() - max(last_heartbeat))::float
    FROM procrastinate_workers
"""


class DatabaseNotReady(Refused):
    """The database does not answer. Start it, or wait until it has started."""

    code = "database_not_ready"


class MigrationsMissing(DatabaseNotReady):
    """The database is older than this release. Run `python manage.py migrate`."""

    code = "migrations_missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One part: whether it is well, and what only staff may know about it."""

    name: str
    is_ok: bool
    detail: dict[str, Any]


def database_check() -> None:
    """Raise DatabaseNotReady unless the database answers and is as new as the code."""
    try:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        raise DatabaseNotReady from error
    if plan:
        raise MigrationsMissing


def checks() -> list[Check]:
    """Look at what pages can do without for a while; call it when the database answers."""
    components = files.read_json(settings.STATUS_FILE).get("components", {})
    states = {name: part.get("state", "") for name, part in components.items()}
    return [_queue(), _workers(states), _engine(), _disk()]


def engine_state() -> str:
    """Return "ready", "starting" or "failed" of all models' engines, or "elsewhere" without a supervisor."""
    progress = [engine_progress(slug) for slug in settings.MODELS]
    if not all(one.stages for one in progress):
        return "elsewhere"
    if any(one.failed for one in progress):
        return "failed"
    return "ready" if all(one.is_ready for one in progress) else "starting"


def _queue() -> Check:
    with connection.cursor() as cursor:
        cursor.execute(WAITING)
        waiting = {
            queue: {"jobs": jobs, "oldest_s": round(age or 0.0, 1)}
            for queue, jobs, age in cursor.fetchall()
        }
    ages = [found["oldest_s"] for queue, found in waiting.items() if queue != "train"]
    return Check("queue", max(ages, default=0.0) <= LONGEST_WAIT_S, waiting)


def _workers(states: dict[str, str]) -> Check:
    """Look at heartbeats; which of the two workers is silent, only the supervisor here can tell."""
    with connection.cursor() as cursor:
        cursor.execute(BEATS, [SILENT_S])
        alive, last = cursor.fetchone()
    parts: dict[str, Any] = {name: states[name] for name in ("worker", "trainer") if name in states}
    is_ok = alive > 0 and "failed" not in parts.values()
    heard = None if last is None else round(last, 1)
    return Check("workers", is_ok, {"alive": alive, "last_heartbeat_s": heard, **parts})


def _engine() -> Check:
    state = engine_state()
    return Check("engine", state == "ready", {"state": state})


def _disk() -> Check:
    usage = shutil.disk_usage(settings.VAR)
    detail = {"free_bytes": usage.free, "free_share": round(usage.free / usage.total, 3)}
    return Check("disk", usage.free >= LEAST_FREE, detail)
