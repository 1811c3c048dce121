"""The command and environment that start vLLM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pairloop.up import engine


def launch(**changes: Any) -> tuple[list[str], dict[str, str]]:
    given: dict[str, Any] = {
        "python": Path("/p/.venv-ml/bin/python"),
        "base": Path("/p/var/bases/b"),
        "served_name": "pl-base",
        "socket": Path("/p/var/run/engine.sock"),
        "state": Path("/p/var/engine"),
        "lora_rank": 16,
        "lora_target_modules": ["q_proj", "down_proj"],
        "cores": "0-1",
        "cache_gib": 2,
    }
    return engine.launch(**{**given, **changes})


def value(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


class TestLaunch:
    def test_runs_vllm_as_a_module(self) -> None:
        command, _ = launch()

        assert command[:5] == [
            "/p/.venv-ml/bin/python",
            "-m",
            "vllm.entrypoints.cli.main",
            "serve",
            "/p/var/bases/b",
        ]

    def test_listens_on_the_socket_alone(self) -> None:
        command, environment = launch()

        assert value(command, "--uds") == "/p/var/run/engine.sock"
        assert "--host" not in command
        assert "--port" not in command
        assert environment["VLLM_HOST_IP"] == "127.0.0.1"
        assert environment["GLOO_SOCKET_IFNAME"] == "lo"

    def test_opens_nothing_that_is_off_by_default(self) -> None:
        _, environment = launch()

        assert environment["VLLM_PLUGINS"] == ""
        assert environment["VLLM_SERVER_DEV_MODE"] == "0"

    def test_makes_room_for_the_adapters(self) -> None:
        command, environment = launch(lora_rank=12)

        assert "--enable-lora" in command
        assert value(command, "--max-lora-rank") == "16"
        modules = command.index("--lora-target-modules")
        assert command[modules + 1 : modules + 4] == ["q_proj", "down_proj", "--generation-config"]
        assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"

    def test_samples_from_the_model_as_it_is(self) -> None:
        command, _ = launch(dtype="bfloat16")

        assert value(command, "--generation-config") == "vllm"
        assert value(command, "--dtype") == "bfloat16"

    def test_binds_the_cores_of_a_cpu(self) -> None:
        _, environment = launch(cores="0,2", cache_gib=3)

        assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "0,2"
        assert environment["VLLM_CPU_KVCACHE_SPACE"] == "3"

    def test_tells_a_gpu_nothing_about_the_cpu(self) -> None:
        command, environment = launch(gpu_share=0.45)

        assert value(command, "--gpu-memory-utilization") == "0.45"
        assert not [name for name in environment if name.startswith("VLLM_CPU_")]

    def test_writes_into_its_own_folder_only(self) -> None:
        _, environment = launch()

        for name in (
            "HOME",
            "HF_HOME",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "VLLM_CACHE_ROOT",
            "VLLM_CONFIG_ROOT",
        ):
            assert Path(environment[name]).is_relative_to("/p/var/engine")

    def test_stays_on_the_machine(self) -> None:
        _, environment = launch()

        assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"
        assert environment["HF_HUB_OFFLINE"] == "1"


class TestLoraRankRoom:
    @pytest.mark.parametrize(
        ("rank", "room"), [(1, 1), (2, 8), (8, 8), (16, 16), (17, 32), (512, 512)]
    )
    def test_is_the_next_rank_that_vllm_has(self, rank: int, room: int) -> None:
        assert engine.lora_rank_room(rank) == room

    def test_refuses_a_rank_that_vllm_cannot_serve(self) -> None:
        with pytest.raises(ValueError, match="rank 513"):
            engine.lora_rank_room(513)


class TestCoresAvailable:
    @pytest.mark.parametrize(
        ("cores", "text"), [({0, 1, 2, 3}, "0-3"), ({5}, "5-5"), ({2, 0, 7}, "0,2,7")]
    )
    def test_writes_them_as_vllm_reads_them(
        self, monkeypatch: pytest.MonkeyPatch, cores: set[int], text: str
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)

        assert engine.cores_available() == text


class TestGpuPresent:
    def test_agrees_with_the_driver(self) -> None:
        assert engine.gpu_present() == Path("/proc/driver/nvidia/version").exists()
