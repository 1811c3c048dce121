"""The database as one file: pg_dump and pg_restore of the programs that Pairloop knows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, connections
from psycopg.conninfo import make_conninfo

from pairloop.lib.errors import Refused
from pairloop.up import binaries, postgres

#: Tables whose rows stay behind: the queue finds its work again by looking at what is missing, and nobody
#: should get hold of a session.
WITHOUT_ROWS = ("procrastinate_*", "django_session")

#: A script begins with settings; what follows is left alone.
HEADER_LINES = 40


class DumpFailed(Refused):
    """PostgreSQL's programs could not write or read the dump."""

    code = "dump_failed"


class ProgramsTooOld(Refused):
    """The server is newer than the programs that would dump it."""

    code = "programs_too_old"


@contextmanager
def database_running() -> Iterator[None]:
    """Use the database that runs; run the embedded one for the length of the block when it does not.

    Call it from the main thread. Raises Refused when it cannot be started.
    """
    cluster = postgres.Cluster.of(settings.VAR)
    if settings.DATABASE_URL or cluster.answers():
        yield
        return
    with postgres.running(cluster):
        try:
            yield
        finally:
            # An open connection would keep the server from stopping.
            connections.close_all()


def server_version() -> str:
    """Return the server's version, as in "18.6"."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::int")
        (number,) = cursor.fetchone()
    return f"{number // 10000}.{number % 10000}"


def dump(path: Path, *, snapshot: str) -> None:
    """Write the database, as an exported snapshot of another transaction sees it. Raises Refused."""
    tool = _program("pg_dump")
    ours, theirs = _major(binaries.version(tool.parent, tool.name)), _major(server_version())
    if ours < theirs:
        raise ProgramsTooOld(
            f"{tool} is of version {ours} and cannot dump a server of version {theirs}. Install the client"
            f" programs of version {theirs} and set PAIRLOOP_PG_BIN to their folder."
        )
    # PostgreSQL's program keeps the mode of a file that is there.
    path.touch(mode=0o600)
    without = [f"--exclude-table-data={pattern}" for pattern in WITHOUT_ROWS]
    _run(
        str(tool), "--format=custom", "--no-owner", "--no-privileges", *without,
        f"--snapshot={snapshot}", f"--file={path}", f"--dbname={_target()}",
    )  # fmt: skip


def load(path: Path) -> None:
    """Fill an empty database from a dump: all of it or nothing. Raises DumpFailed.

    As a script, since pg_restore itself gives a server older than it is a setting that is unknown there.
    """
    read = [str(_program("pg_restore")), "--no-owner", "--no-privileges", "--file=-", str(path)]
    write = [str(_program("psql")), "--no-psqlrc", "--quiet", "--single-transaction"]
    write += ["--set=ON_ERROR_STOP=1", "--file=-", f"--dbname={_target()}"]
    with (
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as replied,
        _started(read, stdout=subprocess.PIPE, stderr=said) as reader,
        _started(write, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=replied) as writer,
    ):
        try:
            _pass_on(reader, writer)
            if reader.wait() == 0 and writer.stdin:
                writer.stdin.close()
                writer.wait()
        finally:
            # At the end of its input psql would commit; whoever was cut short must not get there.
            for process in (writer, reader):
                if process.poll() is None:
                    process.kill()
        for program, process, words in (("psql", writer, replied), ("pg_restore", reader, said)):
            if process.wait() != 0:
                words.seek(0)
                raise DumpFailed(_sentence(program, words.read().decode(errors="replace")))


def _started(command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=_environment(), **streams)


def _pass_on(reader: subprocess.Popen[bytes], writer: subprocess.Popen[bytes]) -> None:
    if not reader.stdout or not writer.stdin:
        return
    try:
        for _ in range(HEADER_LINES):
            line = reader.stdout.readline()
            if not line.startswith(b"SET transaction_timeout"):
                writer.stdin.write(line)
        shutil.copyfileobj(reader.stdout, writer.stdin, 1 << 20)
        writer.stdin.flush()
    except BrokenPipeError:
        writer.wait()  # It stopped at an error, which it has told.


def _program(name: str) -> Path:
    return binaries.find(name) / name


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _target() -> str:
    """Return how to reach the database, without the password."""
    entry = connection.settings_dict
    parts = {"host": "HOST", "port": "PORT", "user": "USER", "dbname": "NAME"}
    given = {key: str(entry[name]) for key, name in parts.items() if entry[name]}
    options = {key: str(value) for key, value in entry["OPTIONS"].items()}
    return make_conninfo(**(given | options))


def _run(*command: str) -> None:
    """Run one program to its end. Raises DumpFailed with its own words."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=_environment(),
    )
    if done.returncode != 0:
        raise DumpFailed(_sentence(Path(command[0]).name, done.stderr))


def _environment() -> dict[str, str]:
    """Return what the programs need to know. A command line, which would show the password, does not."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "PGPASSWORD": str(connection.settings_dict["PASSWORD"]),
    }


def _sentence(program: str, said: str) -> str:
    """Return what a program said as one sentence, and what to do where we know it."""
    lines = [line.strip() for line in said.splitlines() if "error:" in line.lower()]
    words = re.split("(?i)error:", lines[0])[-1].strip() if lines else "it gave no reason"
    why = f"{program} failed: {words.rstrip('.')}."
    if "No space left" in said:
        return f"The disk is full. {why} Make room, or choose a folder on another disk."
    if "SSL" in said:
        return f"{why} Set PAIRLOOP_PG_BIN to the bin folder of a PostgreSQL that speaks TLS."
    return why
