from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from django.conf import LazySettings, settings
from django.utils import timezone

from models_registry import serving
from models_registry.engine.fake import FakeEngine
from models_registry.models import ModelVersion, Serving
from pairloop.lib import files, places
from pairloop.up import components, postgres
from pairloop.up.supervisor import StateFolderUnusable
from tests import factories

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Healthy(BaseHTTPRequestHandler):
    """An engine that answers its health check."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class TestAddressCheck:
    def test_names_another_port_to_try(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

            with pytest.raises(components.AddressUnusable) as refused:
                components.address_check(f"127.0.0.1:{port}")

        assert f"Port {port} on 127.0.0.1 cannot be used: address already in use" in str(
            refused.value
        )

    @pytest.mark.parametrize("bind", ["8000", "127.0.0.1", "localhost:http", "localhost:70000"])
    def test_refuses_what_is_no_address(self, bind: str) -> None:
        with pytest.raises(components.AddressUnusable, match="must be host:port"):
            components.address_check(bind)


class TestDiskCheck:
    def test_refuses_a_disk_that_is_nearly_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(components, "LEAST_FREE", 1 << 60)

        with pytest.raises(StateFolderUnusable, match="Make room, or set PAIRLOOP_VAR"):
            components.disk_check(tmp_path)


class TestMemoryCheck:
    def test_says_what_is_missing(self) -> None:
        with pytest.raises(
            components.EngineUnusable, match=r"mine needs about 9\.0 GB .* 8\.0 GB are free"
        ):
            components.memory_check(slug="mine", needed=9 * 10**9, free=8 * 10**9)

    def test_lets_through_what_fits(self) -> None:
        components.memory_check(slug="mine", needed=8 * 10**9, free=8 * 10**9)


class TestSpecs:
    def test_needs_only_parts_that_exist(self) -> None:
        specs = components.specs(say=print, cluster_lock=None)

        names = [spec.name for spec in specs]
        assert names == ["postgres", "web", "environment", "base", "engine", "worker", "trainer"]
        assert all(need in names for spec in specs for need in spec.needs)

    def test_gives_each_model_an_engine_of_its_own(self, settings: LazySettings) -> None:
        settings.MODELS = ["demo", "mine"]

        specs = {spec.name: spec for spec in components.specs(say=print, cluster_lock=None)}

        assert specs["engine"].needs == ("base",)
        assert specs["engine-mine"].needs == ("base-mine",)
        assert len(set(serving.urls())) == 2

    def engine_skip(self, settings: LazySettings, url: str) -> str:
        settings.ENGINE_IS_OURS = False
        settings.ENGINE_URL = url
        specs = components.specs(say=print, cluster_lock=7)
        return next(spec.skip() for spec in specs if spec.name == "engine")

    def test_starts_no_engine_when_one_is_given(self, settings: LazySettings) -> None:
        with HTTPServer(("127.0.0.1", 0), Healthy) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            reason = self.engine_skip(settings, url)
            server.shutdown()

        assert reason == f"Uses the engine at {url}."

    def test_says_what_to_do_when_the_given_engine_does_not_answer(
        self, settings: LazySettings
    ) -> None:
        url = f"http://127.0.0.1:{free_port()}"

        reason = self.engine_skip(settings, url)

        assert reason.startswith(f"The engine at {url} does not answer. Start it or correct")

    @pytest.mark.parametrize(("is_ready", "reason"), [(True, ".venv-ml is ready."), (False, "")])
    def test_sets_no_environment_up_twice(
        self, monkeypatch: pytest.MonkeyPatch, is_ready: bool, reason: str
    ) -> None:
        monkeypatch.setattr(components.environments, "is_ready", lambda _plan: is_ready)
        specs = components.specs(say=print, cluster_lock=7)

        assert next(spec.skip() for spec in specs if spec.name == "environment") == reason

    def test_sets_nothing_up_beside_an_environment_that_is_given(
        self, settings: LazySettings
    ) -> None:
        settings.ML_PYTHON = Path("/opt/models/bin/python")
        specs = components.specs(say=print, cluster_lock=7)

        reason = next(spec.skip() for spec in specs if spec.name == "environment")

        assert reason == "Uses /opt/models/bin/python of PAIRLOOP_ML_PYTHON."

    def test_starts_our_own_otherwise(self) -> None:
        specs = components.specs(say=print, cluster_lock=7)

        assert next(spec.skip() for spec in specs if spec.name == "engine") == ""


@pytest.mark.django_db
class TestEngineReadiness:
    """Asked by the supervisor with the time at which the process was started."""

    @pytest.fixture
    def version(self) -> ModelVersion:
        version = factories.ModelVersionFactory.create(adapter=True)
        factories.AliasFactory.create(model=version.model, name="challenger", version=version)
        return version

    @pytest.fixture
    def engine(self, version: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
        fake = FakeEngine(base=version.parent.served_name)
        monkeypatch.setattr(serving, "engine", lambda url, timeout: nullcontext(fake))
        # The test's own connection must survive it.
        monkeypatch.setattr(components.connection, "close", lambda: None)
        return fake

    def load(self, engine: FakeEngine, version: ModelVersion) -> None:
        engine.adapters[version.served_name] = "/versions/1"
        Serving.objects.update_or_create(
            version=version,
            engine=settings.ENGINE_URL,
            defaults={"loaded_at": timezone.now()},
        )

    def test_waits_for_everything_wanted(self, engine: FakeEngine, version: ModelVersion) -> None:
        ready = components.EngineReadiness(settings.ENGINE_URL)
        assert not ready(1.0)

        self.load(engine, version)

        assert ready(1.0)

    def test_is_a_matter_of_health_alone_from_then_on(
        self, engine: FakeEngine, version: ModelVersion
    ) -> None:
        ready = components.EngineReadiness(settings.ENGINE_URL)
        self.load(engine, version)
        assert ready(1.0)

        # A newer version is about to be loaded.
        engine.restart()
        assert ready(1.0)

        engine.up = False
        assert not ready(1.0)
        engine.up = True
        assert ready(1.0)

    def test_begins_anew_with_another_process(
        self, engine: FakeEngine, version: ModelVersion
    ) -> None:
        ready = components.EngineReadiness(settings.ENGINE_URL)
        self.load(engine, version)
        assert ready(1.0)

        engine.restart()

        assert not ready(2.0)
        self.load(engine, version)
        assert ready(2.0)

    def test_is_not_there_when_nobody_answers(self, engine: FakeEngine) -> None:
        engine.up = False

        assert not components.EngineReadiness(settings.ENGINE_URL)(1.0)


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # As root it lies below /var/lib, which pytest does not tidy.
    shutil.rmtree(postgres.Cluster.of(tmp_path).folder, ignore_errors=True)


# A first start makes a database; on a busy machine that takes its time.
@pytest.mark.timeout(150)
@pytest.mark.slow
class TestUp:
    def up(self, var: Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=ROOT,
            env=os.environ
            | {
                "DJANGO_SETTINGS_MODULE": "pairloop.settings",
                "PAIRLOOP_VAR": str(var),
                "PAIRLOOP_DATABASE_URL": "",
                # No engine of our own, and nothing that could make a base.
                "PAIRLOOP_ENGINE_URL": "http://127.0.0.1:1",
                "PAIRLOOP_ML_PYTHON": str(var / "no-python"),
            }
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def test_serves_until_ctrl_c(self, var: Path) -> None:
        bind = f"127.0.0.1:{free_port()}"
        process = self.up(var, PAIRLOOP_BIND=bind)
        lines = []
        try:
            assert process.stdout
            for line in process.stdout:
                lines.append(line)
                if line.startswith("worker ready"):
                    break
            with urllib.request.urlopen(f"http://{bind}/healthz", timeout=5) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=90)
        finally:
            process.kill()
            process.communicate()

        output = "".join([*lines, rest])
        assert process.returncode == 0, output
        assert f"http://{bind}" in output
        # Commands in another terminal print links with it.
        status = files.read_json(places.socket_folder(var) / "status.json")
        assert status["address"] == f"http://{bind}"
        assert output.index("stopping web") < output.index("stopping postgres")
        assert "Traceback" not in output

    def test_refuses_a_model_that_nobody_registered(self, var: Path) -> None:
        process = self.up(var, PAIRLOOP_MODEL="absent", PAIRLOOP_BIND=f"127.0.0.1:{free_port()}")
        output, _ = process.communicate(timeout=90)

        assert process.returncode == 1
        assert "PAIRLOOP_MODEL=absent: absent is no registered model; there are: demo." in output
        assert "Traceback" not in output

    def test_refuses_a_database_that_does_not_answer(self, var: Path) -> None:
        url = "postgresql://ann:hush@127.0.0.1:1/loop"

        process = self.up(var, PAIRLOOP_DATABASE_URL=url, PAIRLOOP_BIND=f"127.0.0.1:{free_port()}")
        output, _ = process.communicate(timeout=90)

        assert process.returncode == 1
        assert "The database of PAIRLOOP_DATABASE_URL does not answer: " in output
        assert "Traceback" not in output
        assert "hush" not in output

    def test_says_which_setting_is_wrong(self, var: Path) -> None:
        process = self.up(var, PAIRLOOP_DATABASE_URL="sqlite:///loop")
        output, _ = process.communicate(timeout=90)

        assert process.returncode == 1
        assert output.startswith("PAIRLOOP_DATABASE_URL must begin with postgresql://")
