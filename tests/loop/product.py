"""One whole Pairloop: real PostgreSQL, real vLLM, the demo model; seen as its users see it."""

from __future__ import annotations

import json
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
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
ML_PYTHON = ROOT / ".venv-ml" / "bin" / "python"
PASSWORD = re.compile(r"Log in as (\w+)\s+with password (\S+)")
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class TookTooLong(Exception):
    """What was waited for did not come; the message holds all that is known."""


@dataclass
class Product:
    """One state folder, the `manage.py up` that runs on it and what it has printed."""

    folder: Path
    port: int
    #: Added to the environment.
    settings: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    #: User name -> password, also of starts before this one.
    _known: dict[str, str] = field(default_factory=dict)
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
            **self.settings,
        }

    def start(self) -> None:
        """Start the supervisor and forget the lines of the one before it."""
        self.close()
        self._known |= self.passwords()
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

    def stop(self) -> None:
        """Stop the supervisor as Ctrl-C does, by force after a minute."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.close()

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
                raise TookTooLong(f"{what} did not come within {seconds:.0f} s\n{self.told()}")
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
                "password": (self._known | self.passwords())[user],
                "csrfmiddlewaretoken": token_of(page.text),
            },
        )
        assert answer.status_code == 200, answer.text


def token_of(page: str) -> str:
    """Return the CSRF token of a page's form."""
    found = TOKEN.search(page)
    assert found, page
    return found[1]


def processes_of(var: Path, *, naming: str = "") -> dict[int, str]:
    """Return pid and command line of what runs on a state folder and has `naming` in its command.

    A process belongs to the folder when its arguments, environment or working folder mention it.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            # PostgreSQL renames its processes but keeps its working folder.
            where = str((folder / "cwd").readlink())
            command = (folder / "cmdline").read_bytes()
            text = (folder / "environ").read_bytes() + command
        except OSError:
            continue
        words = command.replace(b"\0", b" ").decode()
        if (os.fsencode(var) in text or where.startswith(str(var))) and naming in words:
            found[int(folder.name)] = words
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Api:
    """The REST API as a script with a login uses it."""

    def __init__(self, client: httpx.Client) -> None:
        """Take a client that is logged in."""
        self._client = client
        page = client.get("/").text
        self._headers = {"X-CSRFToken": token_of(page), "Referer": str(client.base_url)}

    def get(self, path: str) -> Any:
        """Return what is there."""
        return self._answer(self._client.get(f"/api/v1/{path}"))

    def lines(self, path: str) -> list[dict[str, Any]]:
        """Return the objects of a JSONL answer."""
        answer = self._client.get(f"/api/v1/{path}")
        answer.raise_for_status()
        return [json.loads(line) for line in answer.text.splitlines()]

    def post(self, path: str, body: Any = None) -> Any:
        """Send something; None when the answer is empty."""
        return self._answer(
            self._client.post(f"/api/v1/{path}", json=body or {}, headers=self._headers)
        )

    @staticmethod
    def _answer(answer: httpx.Response) -> Any:
        if answer.is_error:
            raise AssertionError(
                f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"
            )
        return answer.json() if answer.content else None


def judge_shorter(labeler: Api) -> str | None:
    """Judge the next pair, if one waits: the shorter answer is better.

    Much better when the other one is half as long again. Return the assignment whose judgement was acknowledged.
    """
    assignment = labeler.post("models/demo/assignments/")
    if assignment is None:
        return None
    left, right = (len(assignment[side]["text"]) for side in ("left", "right"))
    verdict = "tie" if left == right else "left" if left < right else "right"
    if max(left, right) >= 1.5 * min(left, right):
        verdict += "_much"
    body = {"verdict": verdict, "active_ms": 1}
    labeler.post(f"assignments/{assignment['id']}/judgement/", body)
    return str(assignment["id"])
