"""Where Pairloop keeps its state, and the short folder that its sockets live in."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from pairloop.lib import files

#: A unix socket's path is limited to 107 bytes; the longest name below the folder needs 22 of them.
LONGEST_FOLDER = 80


def socket_folder(var: Path) -> Path:
    """Return the 0700 folder for sockets: `var/run`, or a short one in its place when that is too long.

    Raises PermissionError when somebody else owns the short folder.
    """
    folder = var / "run"
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        return files.private_folder(folder)
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = hashlib.sha256(os.fsencode(var)).hexdigest()[:12]
    short = base / f"pairloop-{os.getuid()}-{name}"
    try:
        short.mkdir(mode=0o700)
    except FileExistsError:
        pass
    # Not followed: a link may lead anywhere, or nowhere.
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(
            f"{short} belongs to somebody else. Set PAIRLOOP_VAR to a shorter path."
        )
    short.chmod(0o700)
    return short
