"""The PostgreSQL that Pairloop runs itself: where it lives, how it is made, how it is asked.

settings.py imports this, so it stays cheap and knows no models.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pairloop.lib import files, places, processes
from pairloop.lib.errors import Refused
from pairloop.up import binaries, locks

ENGINE = "pairloop.lib.database"
#: The role and the database that Pairloop works with.
NAME = "pairloop"
#: The superuser; only this module uses it.
OWNER = "pairloop_owner"
PORT = "5432"
LONGEST_SOCKET = 99
START_S = 60.0
STOP_S = 10.0


class ClusterBusy(Refused):
    """Another process runs PostgreSQL in this folder."""

    code = "postgres_busy"


class ClusterUnusable(Refused):
    """PostgreSQL cannot use its data folder."""

    code = "postgres_unusable"


class ClusterNotStarted(Refused):
    """PostgreSQL did not start."""

    code = "postgres_not_started"


def database_of_url(url: str) -> dict[str, Any]:
    """Return Django's entry for postgresql://user:password@host:port/name?sslmode=...

    Raises ImproperlyConfigured with a sentence that does not repeat the password.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ImproperlyConfigured(
            "PAIRLOOP_DATABASE_URL must begin with postgresql://. Pairloop works with PostgreSQL only."
        )
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ImproperlyConfigured(
            "PAIRLOOP_DATABASE_URL cannot be read. Write postgresql://user:password@host:5432/name,"
            " with special characters of the password percent-encoded."
        ) from None
    name = parts.pop("dbname", "")
    if not name:
        raise ImproperlyConfigured(
            "PAIRLOOP_DATABASE_URL names no database. Add its name: postgresql://…/pairloop."
        )
    return {
        "ENGINE": ENGINE,
        "NAME": name,
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""),
        "PORT": str(parts.pop("port", "")),
        "OPTIONS": parts,
    }


@dataclass(frozen=True, slots=True)
class Cluster:
    """One PostgreSQL data folder and what belongs to it."""

    var: Path
    #: Holds the data; as root below /var/lib, since PostgreSQL's own user cannot enter /root.
    folder: Path
    #: Holds the socket; 0700.
    socket_folder: Path
    #: PostgreSQL refuses to run as root.
    as_root: bool

    @classmethod
    def of(cls, var: Path) -> Cluster:
        """Return the cluster of a state folder; as root, remember a random name for it there."""
        if os.geteuid() != 0:
            return cls(var, var / "postgres", places.socket_folder(var), as_root=False)
        folder = binaries.SYSTEM_FOLDER / _name_kept(var / "postgres.id")
        return cls(var, folder, folder / "run", as_root=True)

    @property
    def data(self) -> Path:
        """Return PostgreSQL's data folder; it exists only when it is complete."""
        return self.folder / "data"

    @property
    def socket(self) -> Path:
        """Return the socket's path."""
        return self.socket_folder / f".s.PGSQL.{PORT}"

    @property
    def binaries(self) -> Path:
        """Return the folder of the programs, copied for PostgreSQL's user when we are root."""
        return binaries.usable() if self.as_root else binaries.find()

    @property
    def account(self) -> processes.Account | None:
        """Return the system user that PostgreSQL runs as; None means ours."""
        return binaries.account() if self.as_root else None

    def database(self) -> dict[str, Any]:
        """Return Django's entry for the app's database."""
        return {
            "ENGINE": ENGINE,
            "NAME": NAME,
            "USER": NAME,
            "PASSWORD": files.secret(self.var / "secrets" / "postgres"),
            "HOST": str(self.socket_folder),
            "PORT": PORT,
        }

    def launch(self, *, lock: int, durable: bool = True) -> processes.Launch:
        """Return how to run the server in the foreground.

        The server inherits the lock, so the lock is free only when no process of it is left.
        """
        command = [str(self.binaries / "postgres"), "-D", str(self.data), "-p", PORT]
        command += ["-k", str(self.socket_folder), "-c", "listen_addresses="]
        command += ["-c", "unix_socket_permissions=0700"]
        # Else each connection plans the first five runs of a prepared statement anew, and people wait meanwhile.
        command += ["-c", "plan_cache_mode=force_generic_plan"]
        if not durable:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                command += ["-c", f"{setting}=off"]
        return processes.Launch(
            command=tuple(command),
            folder=self.folder,
            environment=_ENVIRONMENT,
            account=self.account,
            descriptors=(lock,),
        )

    def connect(self, *, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection as the superuser, in autocommit mode."""
        return psycopg.connect(
            host=str(self.socket_folder),
            port=PORT,
            user=OWNER,
            password=files.secret(self.var / "secrets" / "postgres-owner"),
            dbname=database,
            connect_timeout=3,
            autocommit=True,
        )

    def answers(self) -> bool:
        """Return whether the server really answers a query.

        Raises ClusterUnusable when it knows another password, which waiting does not cure.
        """
        try:
            with self.connect() as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise ClusterUnusable(
                    f"PostgreSQL refuses the password in {self.var}/secrets/postgres-owner, so that file"
                    f" is not the one made with {self.data}. Put the old one back, or move"
                    f" {self.data} away to begin with an empty database."
                ) from None
            return False
        return True


def cluster_lock(cluster: Cluster, *, wait_s: float = 0.0) -> int:
    """Return a descriptor that keeps everybody else from this cluster; make its folders first.

    Then nothing of an earlier run is left, whatever its pid files say. Raises ClusterBusy.
    """
    _folders_make(cluster)
    try:
        lock = locks.acquire(cluster.folder / "lock", wait_s=wait_s)
    except locks.LockTaken as taken:
        raise ClusterBusy(
            f"Process {taken.pid} uses the PostgreSQL in {cluster.folder}. Stop it first."
        ) from None
    if _somebody_listens(cluster.socket):
        os.close(lock)
        raise ClusterBusy(
            f"A PostgreSQL that Pairloop did not start runs at {cluster.socket}. Stop it first."
        )
    # PostgreSQL takes a pid that another program got meanwhile for a server that still runs.
    for stale in (
        cluster.data / "postmaster.pid",
        cluster.socket.with_name(f"{cluster.socket.name}.lock"),
    ):
        stale.unlink(missing_ok=True)
    return lock


def cluster_prepare(cluster: Cluster, *, lock: int, durable: bool = True) -> None:
    """Make the data folder, unless it is there; `lock` is what cluster_lock returned.

    Raises ClusterUnusable when its version is not that of the programs.
    """
    major = binaries.version(cluster.binaries).partition(".")[0]
    if not cluster.data.exists():
        _initdb(cluster, major=int(major), lock=lock, durable=durable)
    try:
        made_by = (cluster.data / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ClusterUnusable(
            f"{cluster.data} is not a PostgreSQL data folder. Move it away; the next start makes a new one."
        ) from None
    if made_by != major:
        raise ClusterUnusable(
            f"The data in {cluster.data} was made by PostgreSQL {made_by}, but this is PostgreSQL {major}."
            f" Set PAIRLOOP_PG_BIN to the programs of version {made_by}; to move to {major}, dump with"
            " pg_dump there and restore here."
        )


def cluster_provision(cluster: Cluster, *, createdb: bool = False) -> None:
    """Make sure of the app's role, without superuser, and of its database, on a running server."""
    password = files.secret(cluster.var / "secrets" / "postgres")
    name = sql.Identifier(NAME)
    with cluster.connect() as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NAME]).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {}").format(name))
        connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEROLE {} PASSWORD {}").format(
                name, sql.SQL("CREATEDB" if createdb else "NOCREATEDB"), sql.Literal(password)
            )
        )
        if not connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", [NAME]
        ).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))


@contextmanager
def running(cluster: Cluster, *, createdb: bool = False, durable: bool = True) -> Iterator[None]:
    """Run a cluster for the length of a block. Call it from the main thread.

    Not durable is faster, and loses data only when the machine crashes.
    Raises ClusterBusy, ClusterUnusable or ClusterNotStarted.
    """
    lock = cluster_lock(cluster)
    try:
        cluster_prepare(cluster, lock=lock, durable=durable)
        log = files.private_folder(cluster.var / "log") / "postgres.log"
        processes.log_rotate(log)
        server = processes.spawn(
            cluster.launch(lock=lock, durable=durable), log=log, death_signal=signal.SIGINT
        )
        try:
            _wait_until_it_answers(cluster, server, log)
            cluster_provision(cluster, createdb=createdb)
            yield
        finally:
            _stop(server)
    finally:
        os.close(lock)


#: PostgreSQL must depend neither on the terminal's language nor on its PG* variables.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PGDATA": "", "PGOPTIONS": "", "PGTZ": "UTC"}


def _name_kept(path: Path) -> str:
    files.private_folder(path.parent)
    if not path.exists():
        files.write_atomic(path, secrets.token_hex(6))
    name = path.read_text(encoding="ascii").strip()
    if not name.isalnum():
        raise ImproperlyConfigured(
            f"{path} must hold one word. Delete it to begin with an empty database."
        )
    return name


def _folders_make(cluster: Cluster) -> None:
    if len(os.fsencode(cluster.socket)) > LONGEST_SOCKET:
        raise ClusterUnusable(
            f"{cluster.socket} is too long for a socket. Set PAIRLOOP_VAR to a shorter path."
        )
    account = cluster.account
    if not account:
        files.private_folder(cluster.folder)
        return
    binaries.system_folder()
    if not cluster.folder.exists():
        # It stays root's, so PostgreSQL's user cannot put links where root writes.
        cluster.folder.mkdir()
        os.chown(cluster.folder, 0, account.gid)
        cluster.folder.chmod(0o710)
    _folder_given(cluster.socket_folder, account)


def _folder_given(folder: Path, account: processes.Account | None) -> None:
    files.private_folder(folder)
    if account:
        os.chown(folder, account.uid, account.gid)


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _initdb(cluster: Cluster, *, major: int, lock: int, durable: bool) -> None:
    draft = cluster.folder / "data.new"
    password = cluster.folder / "password"
    # What an interrupted initdb left; the finished folder appears by rename only.
    if draft.exists():
        shutil.rmtree(draft)
    _folder_given(draft, cluster.account)
    password.unlink(missing_ok=True)
    files.write_atomic(password, files.secret(cluster.var / "secrets" / "postgres-owner"))
    if account := cluster.account:
        os.chown(password, account.uid, account.gid)
    command = [str(cluster.binaries / "initdb"), "-D", str(draft), "-U", OWNER]
    command += [f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
    if major >= 17:
        # Sorting then depends on PostgreSQL's version only, not on the machine's C library.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if not durable:
        command.append("--no-sync")
    log = files.private_folder(cluster.var / "log") / "initdb.log"
    processes.log_rotate(log)
    launch = processes.Launch(
        command=tuple(command),
        folder=cluster.folder,
        environment=_ENVIRONMENT,
        account=cluster.account,
        # Should we be killed, the next start waits until initdb has ended.
        descriptors=(lock,),
    )
    try:
        code = processes.spawn(launch, log=log, death_signal=signal.SIGTERM).wait()
    finally:
        password.unlink(missing_ok=True)
    if code != 0:
        tail = "\n".join(processes.log_tail(log, lines=5))
        raise ClusterNotStarted(f"PostgreSQL could not make {cluster.data}:\n{tail}")
    draft.rename(cluster.data)


def _wait_until_it_answers(cluster: Cluster, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not cluster.answers():
        if server.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(processes.log_tail(log, lines=20))
            raise ClusterNotStarted(f"PostgreSQL did not start. The end of {log}:\n{tail}")
        time.sleep(0.05)


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is None:
            server.send_signal(number)
        try:
            server.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            continue
        return
