"""One whole Pairloop for the tests of this folder: real PostgreSQL, real vLLM, the demo model."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
ML_PYTHON = ROOT / ".venv-ml" / "bin" / "python"
PASSWORD = re.compile(r"Log in as (\w+)\s+with password (\S+)")
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


@dataclass
class Product:
    """A running `manage.py up` and what it has printed."""

    process: subprocess.Popen[str]
    var: Path
    address: str
    lines: list[str] = field(default_factory=list)

    def wait_for(self, what: str, find: Callable[[], object], *, seconds: float) -> None:
        """Wait until `find` returns something true; fail with all that is known when it does not."""
        deadline = time.monotonic() + seconds
        while not find():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{what} did not come within {seconds:.0f} s\n{self.told()}")
            time.sleep(0.2)

    def printed(self, text: str) -> bool:
        """Return whether a line with this text was printed."""
        return any(text in line for line in self.lines)

    def passwords(self) -> dict[str, str]:
        """Return the passwords that were printed, by user name."""
        return dict(found.groups() for line in self.lines if (found := PASSWORD.search(line)))

    def told(self) -> str:
        """Return the console and the ends of all logs."""
        logs = [
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            for log in sorted((self.var / "log").glob("*.log"))
        ]
        return "\n".join([*self.lines, *logs])

    @contextmanager
    def log_in(self, user: str) -> Iterator[httpx.Client]:
        """Yield a browser-like client that is logged in."""
        with httpx.Client(base_url=self.address, follow_redirects=True, timeout=10) as client:
            self._enter(client, user)
            yield client

    def _enter(self, client: httpx.Client, user: str) -> None:
        page = client.get("/login/")
        answer = client.post(
            "/login/",
            data={
                "username": user,
                "password": self.passwords()[user],
                "csrfmiddlewaretoken": token_of(page.text),
            },
        )
        assert answer.status_code == 200, answer.text


def token_of(page: str) -> str:
    """Return the CSRF token of a page's form."""
    found = TOKEN.search(page)
    assert found, page
    return found[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Start Pairloop on an empty folder, as `make run` does; stop it with one Ctrl-C."""
    folder = tmp_path_factory.mktemp("product")
    # A copy of the interpreter's name without coverage: measuring vLLM would slow it down.
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nunset COVERAGE_PROCESS_CONFIG\nexec {ML_PYTHON} "$@"\n')
    python.chmod(0o755)
    address = f"127.0.0.1:{_free_port()}"
    hidden = ("PAIRLOOP_", "DJANGO_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    process = subprocess.Popen(
        [sys.executable, "-u", "manage.py", "up"],
        cwd=ROOT,
        env=environment
        | {
            "PAIRLOOP_VAR": str(folder / "var"),
            "PAIRLOOP_BIND": address,
            "PAIRLOOP_ML_PYTHON": str(python),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    running = Product(process=process, var=folder / "var", address=f"http://{address}")

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            running.lines.append(line.rstrip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join(timeout=5)
        assert process.stdout
        process.stdout.close()
