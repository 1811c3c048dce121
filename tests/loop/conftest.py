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
    """One state folder, the `manage.py up` that runs on it and what it has printed."""

    folder: Path
    port: int
    lines: list[str] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None
    _reader: threading.Thread | None = None

    @property
    def var(self) -> Path:
        """The state folder."""
        return self.folder / "var"

    @property
    def address(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[str]:
        """The supervisor."""
        assert self._process
        return self._process

    def environment(self) -> dict[str, str]:
        """Return the variables of a process that works on this state folder."""
        # Without coverage in the model's environment: measuring vLLM would slow it down.
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nunset COVERAGE_PROCESS_CONFIG\nexec {ML_PYTHON} "$@"\n')
        python.chmod(0o755)
        others = ("PAIRLOOP_", "DJANGO_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
        return kept | {
            "PAIRLOOP_VAR": str(self.var),
            "PAIRLOOP_BIND": f"127.0.0.1:{self.port}",
            "PAIRLOOP_ML_PYTHON": str(python),
        }

    def start(self) -> None:
        """Start the supervisor and forget the lines of the one before it."""
        self.close()
        self.lines = []
        process = subprocess.Popen(
            [sys.executable, "-u", "manage.py", "up"],
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process, self.lines), daemon=True)
        self._reader.start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())

    def close(self) -> None:
        """Close the pipe of a supervisor that has ended."""
        if self._process and self._reader:
            self._reader.join(timeout=5)
            assert self._process.stdout
            self._process.stdout.close()

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
    """Start Pairloop on an empty folder, as `make run` does, and never leave it running."""
    running = Product(folder=tmp_path_factory.mktemp("product"), port=_free_port())
    running.start()
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        try:
            running.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            running.process.kill()
        running.close()
