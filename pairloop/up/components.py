"""What `manage.py up` runs: database, web, the model's environment and base, engine, worker."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError, close_old_connections, connection, connections

from models_registry import queries as registry
from models_registry import serving
from models_registry.engine.types import Engine, EngineError
from pairloop.lib import files, processes
from pairloop.lib.errors import Refused
from pairloop.lib.http import origin
from pairloop.up import engine, environments, postgres, seed
from pairloop.up.guard import Guard
from pairloop.up.supervisor import NotYet, Spec, StateFolderUnusable, Supervisor, folder_held

LEAST_FREE = 1 << 30
#: The guard of a killed supervisor stops PostgreSQL; its last processes end a moment later.
CLUSTER_WAIT_S = 10.0

Say = Callable[[str], None]


class EngineUnusable(Refused):
    """A model of PAIRLOOP_MODEL is not registered, so there is nothing to serve."""

    code = "engine_unusable"


class AddressUnusable(Refused):
    """Pairloop cannot listen on the address of PAIRLOOP_BIND."""

    code = "address_unusable"


class DatabaseUnusable(Refused):
    """The database cannot be used."""

    code = "database_unusable"


def up(*, say: Say) -> int:
    """Run everything until Ctrl-C and return the exit code; raises Refused when it cannot begin."""
    with folder_held(settings.VAR, say=say) as guard_lock:
        disk_check(settings.VAR)
        address_check(settings.BIND)
        if warning := exposure(settings.BIND, is_https=settings.HTTPS):
            say(warning)
        lock = None if settings.DATABASE_URL else _cluster_ready()
        guard = Guard(lock=guard_lock)
        try:
            return Supervisor(
                specs(say=say, cluster_lock=lock),
                var=settings.VAR,
                status_file=settings.STATUS_FILE,
                guard=guard,
                say=say,
                address=origin(),
            ).run()
        finally:
            guard.close()
            if lock is not None:
                os.close(lock)


def specs(*, say: Say, cluster_lock: int | None) -> list[Spec]:
    """Return every part in the order in which pages show them; no lock means somebody else's database."""
    return [
        _postgres_given(say) if cluster_lock is None else _postgres_ours(say, cluster_lock),
        Spec(
            name="web",
            launch=_web,
            needs=("postgres",),
            ready=lambda _started: _web_answers(settings.BIND),
            start_patience_s=120,
            patience_s=60,
            essential=True,
            note=f"http://{settings.BIND}",
        ),
        Spec(
            name="environment",
            launch=_environment,
            needs=("web",),
            skip=_environment_given,
            expected_s=150,
        ),
        *(part for slug in settings.MODELS for part in _served(slug)),
        _worker("worker", queues="default,sample", concurrency=4, graceful_s=8),
        # Rounds have a worker of their own: training must not keep anything else waiting. When it is
        # stopped it needs most of its ten seconds for the trainer's last checkpoint.
        _worker(
            "trainer", queues="train", concurrency=1, graceful_s=1, needs=("web", "environment")
        ),
    ]


def _served(slug: str) -> tuple[Spec, Spec]:
    """Return what one model needs: its base, made once, and an engine of its own."""
    base, engine_ = registry.part_name("base", slug), registry.part_name("engine", slug)
    return (
        Spec(
            name=base,
            launch=lambda: _base(slug),
            needs=("environment",),
            skip=lambda: _base_given(slug),
            expected_s=45,
        ),
        Spec(
            name=engine_,
            launch=lambda: _engine(slug),
            needs=(base,),
            ready=EngineReadiness(serving.url_of(slug)),
            # A large model takes its time to load; one that was ready and is silent hangs.
            start_patience_s=1800,
            patience_s=120,
            skip=_engine_given,
            expected_s=75,
        ),
    )


def disk_check(folder: Path) -> None:
    """Refuse to begin on a disk that is nearly full; PostgreSQL would stop in the middle of work."""
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise StateFolderUnusable(
            f"Only {free / 1e9:.1f} GB are free on the disk of {folder}, and Pairloop needs 1 GB to start."
            " Make room, or set PAIRLOOP_VAR to a folder on another disk."
        )


def address_check(bind: str) -> None:
    """Refuse an address that cannot be listened on."""
    host, port = address_of(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As gunicorn does, so connections of the last run that still linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise AddressUnusable(
                f"Port {port} on {host} cannot be used: {(error.strerror or str(error)).lower()}."
                f" {'Stop the program that has it, or set' if taken else 'Set'} PAIRLOOP_BIND to another"
                " address, as in"
                f" PAIRLOOP_BIND=127.0.0.1:{port + 1 if 1023 < port < 65535 else 8001}."
            ) from None


def exposure(bind: str, *, is_https: bool) -> str:
    """Return a warning about an address that others than this machine reach; empty when only it does."""
    host, _port = address_of(bind)
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost"
    if is_here:
        return ""
    if is_https:
        return (
            f"Warning: {bind} is reached without the proxy, and whoever does that can claim any address. Let"
            " a firewall admit only the proxy, or set PAIRLOOP_BIND to 127.0.0.1 beside it."
        )
    return (
        f"Warning: {bind} is open to others and not encrypted; passwords can be read on the way. Put a proxy"
        " with TLS in front (docs/operations.md), set PAIRLOOP_BIND=127.0.0.1:8000 and PAIRLOOP_HTTPS=1."
    )


def address_of(bind: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[host]:port"."""
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressUnusable(f"PAIRLOOP_BIND={bind} must be host:port, as in 127.0.0.1:8000.")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 gunicorn reads ":8000" so, too.


def model_check() -> None:
    """Refuse a PAIRLOOP_MODEL that nobody has registered. Raises EngineUnusable."""
    known = [model.slug for model in registry.models_all()]
    for slug in settings.MODELS:
        if slug not in known:
            raise EngineUnusable(
                f"PAIRLOOP_MODEL={','.join(settings.MODELS)}: {slug} is no registered model; there are:"
                f" {', '.join(known)}. Start Pairloop with one of them, then `manage.py register_base FOLDER"
                f" --slug {slug}`."
            )


def memory_check(*, slug: str, needed: int, free: int) -> None:
    """Refuse an engine for which there is not enough memory, in bytes: the kernel would kill something else."""
    if needed > free:
        raise EngineUnusable(
            f"the engine of {slug} needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free."
            " Make room, lower PAIRLOOP_ENGINE_CACHE_GIB, or serve fewer models by PAIRLOOP_MODEL."
        )


# --- PostgreSQL --------------------------------------------------------------------------------------


def _cluster_ready() -> int:
    cluster = postgres.Cluster.of(settings.VAR)
    try:
        lock = postgres.cluster_lock(cluster, wait_s=CLUSTER_WAIT_S)
        disk_check(cluster.folder)
        postgres.cluster_prepare(cluster, lock=lock)
    except OSError as error:
        raise StateFolderUnusable(
            f"PostgreSQL's folder {error.filename} cannot be used: {error.strerror}. Correct that, or set"
            " PAIRLOOP_DATABASE_URL to a PostgreSQL of your own."
        ) from None
    return lock


def _postgres_ours(say: Say, lock: int) -> Spec:
    cluster = postgres.Cluster.of(settings.VAR)

    def provide() -> None:
        postgres.cluster_provision(cluster)
        _database_prepare(say)

    return Spec(
        name="postgres",
        launch=lambda: cluster.launch(lock=lock),
        ready=lambda _started: cluster.answers(),
        then=provide,
        essential=True,
        stop_signal=signal.SIGINT,
        insist_signal=signal.SIGQUIT,
        stops_last=True,
    )


def _postgres_given(say: Say) -> Spec:
    return Spec(
        name="postgres",
        ready=lambda _started: True,
        skip=_database_given,
        then=lambda: _database_prepare(say),
        essential=True,
    )


def _database_given() -> str:
    try:
        connection.ensure_connection()
    except DatabaseError as error:
        said = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
        raise DatabaseUnusable(
            f"The database of PAIRLOOP_DATABASE_URL does not answer: {said}. Start it or correct the URL;"
            " without the variable, Pairloop runs a PostgreSQL of its own."
        ) from None
    host = connection.settings_dict["HOST"] or "this machine"
    return f"Uses the PostgreSQL at {host} of PAIRLOOP_DATABASE_URL."


#: What drf-spectacular-sidecar brings and no page loads; hashing it would cost a second of each start.
UNUSED_FILES = ["redoc", "swagger-ui-standalone-preset*", "oauth2-redirect*"]


def _database_prepare(say: Say) -> None:
    try:
        call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
        call_command(
            "collectstatic",
            interactive=False,
            verbosity=0,
            skip_checks=True,
            ignore_patterns=UNUSED_FILES,
        )
        for line in seed.seed():
            say(line)
        model_check()
    except (DatabaseError, CommandError) as error:
        raise DatabaseUnusable(f"The database could not be prepared: {error}") from error
    finally:
        connections.close_all()


# --- Web and worker ----------------------------------------------------------------------------------


def _manage(*arguments: str) -> processes.Launch:
    return processes.Launch(
        command=(sys.executable, "manage.py", *arguments), folder=settings.BASE_DIR
    )


def _web() -> processes.Launch:
    memory = Path("/dev/shm")  # noqa: S108 gunicorn's heartbeat file; a slow disk would stall workers.
    heartbeat = memory if os.access(memory, os.W_OK) else settings.SOCKETS
    return processes.Launch(
        command=(
            *(sys.executable, "-m", "gunicorn", "pairloop.wsgi:application"),
            *(
                "--bind",
                settings.BIND,
                "--worker-class",
                "gthread",
                "--workers",
                "2",
                "--threads",
                "8",
            ),
            # Loaded once, before the fork, so both workers share the memory.
            *("--preload", "--no-control-socket", "--worker-tmp-dir", str(heartbeat)),
            *("--graceful-timeout", "8", "--timeout", "60"),
            # gunicorn would believe X-Forwarded-* from this machine. Whether a proxy is there, settings say.
            *("--forwarded-allow-ips", ""),
        ),
        folder=settings.BASE_DIR,
    )


def _web_answers(bind: str) -> bool:
    host, port = address_of(bind)
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 looked for, not bound to.
    there = http.client.HTTPConnection(anywhere.get(host, host), port, timeout=2)
    try:
        there.request(
            "GET", "/healthz", headers={"Host": settings.ALLOWED_HOSTS[0].lstrip(".*") or host}
        )
        # A redirect to HTTPS or a login is an answer, too; 500 is not.
        return there.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        there.close()


def _worker(
    name: str,
    *,
    queues: str,
    concurrency: int,
    graceful_s: int,
    needs: tuple[str, ...] = ("web",),
) -> Spec:
    return Spec(
        name=name,
        launch=lambda: _manage(
            *("procrastinate", "worker", "--queues", queues, "--concurrency", str(concurrency)),
            *("--shutdown-graceful-timeout", str(graceful_s)),
            # The schedule alone makes 8,640 jobs a day; failed ones stay to be looked at.
            *("--delete-jobs", "successful"),
        ),
        needs=needs,
        # Procrastinate does not listen again after it lost its connection; it only polls.
        follows=("postgres",),
        ready=_worker_beats,
        essential=True,
    )


def _worker_beats(started: float) -> bool:
    close_old_connections()
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM procrastinate_workers WHERE last_heartbeat >= to_timestamp(%s)",
                [started],
            )
            return cursor.fetchone() is not None
    except DatabaseError:
        return False
    finally:
        connection.close()


# --- The model's environment, base and engine ----------------------------------------------------------


def _environment() -> processes.Launch:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return processes.Launch(
        # The base interpreter: an environment made from another one breaks when that one goes.
        command=(
            *(str(Path(sys.base_prefix) / "bin" / version), "-u"),
            *("-m", "pairloop.up.environments", "ml"),
        ),
        folder=settings.BASE_DIR,
    )


def _environment_given() -> str:
    if settings.ML_PYTHON == settings.BASE_DIR / ".venv-ml" / "bin" / "python":
        (plan,) = environments.plans_of(["ml"], gpu=environments.has_gpu())
        return f"{plan.folder} is ready." if environments.is_ready(plan) else ""
    return f"Uses {settings.ML_PYTHON} of PAIRLOOP_ML_PYTHON."


def _engine_given() -> str:
    if settings.ENGINE_IS_OURS:
        return ""
    with serving.engine(settings.ENGINE_URL, timeout=5) as client:
        if client.ready():
            return f"Uses the engine at {settings.ENGINE_URL}."
    return (
        f"The engine at {settings.ENGINE_URL} does not answer. Start it or correct PAIRLOOP_ENGINE_URL;"
        " without the variable, Pairloop runs one of its own. It keeps asking, and pages work meanwhile."
    )


def _base(slug: str) -> processes.Launch:
    with _database():
        model = registry.model_announced(slug)
    if model is None:
        return _manage("register_base", slug)
    announced = ("--name", model.name, "--rank", str(model.lora_rank))
    return _manage("register_base", model.base_source, "--slug", model.slug, *announced)


@contextmanager
def _database() -> Iterator[None]:
    """Read something without keeping a connection. Raises NotYet while PostgreSQL is away, say to start again."""
    try:
        yield
    except DatabaseError as away:
        raise NotYet("Waits for the database.") from away
    finally:
        connection.close()


def _base_given(slug: str) -> str:
    with _database():
        model = registry.model_announced(slug)
    return f"{model.name} is registered." if model and model.is_ready else ""


def _engine(slug: str) -> processes.Launch:
    with _database():
        version = registry.base_version(slug)
    if version is None:
        raise EngineUnusable
    model, gpu = version.model, engine.gpu_present()
    if not gpu:
        needed = engine.memory_needed(
            parameters=model.parameters, cache_gib=settings.ENGINE_CACHE_GIB
        )
        memory_check(slug=slug, needed=needed, free=processes.memory_available())
    listening = Path(serving.url_of(slug).removeprefix("unix://"))
    # vLLM leaves its socket behind, and cannot listen where there is one already.
    listening.unlink(missing_ok=True)
    command, environment = engine.launch(
        python=settings.ML_PYTHON,
        base=settings.BASES / version.artifact_path,
        served_name=version.served_name,
        socket=listening,
        state=files.private_folder(settings.VAR / registry.part_name("engine", slug)),
        lora_rank=model.lora_rank,
        lora_target_modules=model.lora_target_modules,
        cores=settings.ENGINE_CORES or engine.cores_available(),
        cache_gib=settings.ENGINE_CACHE_GIB,
        gpu_share=engine.GPU_SHARE / len(settings.MODELS) if gpu else None,
    )
    return processes.Launch(
        command=tuple(command), environment=environment, folder=settings.BASE_DIR
    )


class EngineReadiness:
    """Whether an engine's process answers; before it was ready once, also whether everything wanted is in it.

    The worker does the loading. Afterwards its health alone counts: an engine that has yet to load the
    newest version is not silent.
    """

    def __init__(self, url: str) -> None:
        """Take where it listens; begin with a process that nobody has seen complete."""
        self._url = url
        self._complete: float | None = None

    def __call__(self, started: float) -> bool:
        """Ask the process that was started at this time."""
        # Short, because the supervisor does nothing else meanwhile.
        with serving.engine(self._url, timeout=2) as client:
            if not client.ready():
                return False
            if self._complete != started and self._is_complete(client):
                self._complete = started
        return self._complete == started

    def _is_complete(self, client: Engine) -> bool:
        try:
            return registry.engine_is_complete(client.models())
        except (EngineError, DatabaseError):
            return False
        finally:
            connection.close()
