"""How `manage.py up` starts vLLM. This says what to run and runs nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from models_registry.engine.types import CONTEXT_LENGTH

#: Sequences that are sampled side by side.
SEQUENCES = 32
#: Adapters one batch may mix: the policy that samples and the one it is compared with.
ADAPTERS_IN_BATCH = 2
#: Adapters kept in memory; more are read again from disk when they are asked.
ADAPTERS_IN_MEMORY = 8
#: What vLLM takes on a CPU beside weights and cache, in bytes: 1.9 GB was measured.
OVERHEAD = 2 * 10**9
#: The part of a GPU's memory that vLLM takes by default; several engines share it.
GPU_SHARE = 0.9
#: The only ranks that vLLM makes room for.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def launch(
    *,
    python: Path,
    base: Path,
    served_name: str,
    socket: Path,
    state: Path,
    lora_rank: int,
    lora_target_modules: Sequence[str],
    cores: str,
    cache_gib: int,
    dtype: str = "float32",
    gpu_share: float | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return the command of one vLLM and what to add to its environment.

    `python` is the interpreter of the environment with vLLM, `state` a folder that this engine may write
    into, `cores` what `cores_available` returns, `cache_gib` the memory for keys and values. The last two
    concern the CPU only; `gpu_share` is the part of a GPU's memory that it may take, None without a GPU.

    The socket must not exist: vLLM does not replace it. A SIGTERM ends all of vLLM's processes, a SIGKILL
    only the first: then the others must be killed by their process group.
    """
    # No --enforce-eager: with adapters, vLLM compiles nothing on a CPU anyway.
    command = [
        # Not the `vllm` script: its first line holds a path that breaks when the environment moves.
        *(str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(base)),
        *("--uds", str(socket)),
        *("--served-model-name", served_name),
        *options(lora_rank=lora_rank, lora_target_modules=lora_target_modules, dtype=dtype),
    ]
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        # Plugins of the environment are not loaded, nor vLLM's own that look for adapters by name.
        "VLLM_PLUGINS": "",
        "VLLM_SERVER_DEV_MODE": "0",
        # vLLM's processes talk to each other over loopback; nothing else listens.
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # The home folder may be missing or read-only.
        "HOME": str(state),
        "HF_HOME": str(state / "huggingface"),
        "XDG_CACHE_HOME": str(state / "cache"),
        "XDG_CONFIG_HOME": str(state / "config"),
        "VLLM_CACHE_ROOT": str(state / "vllm"),
        "VLLM_CONFIG_ROOT": str(state / "config" / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(state / "inductor"),
        "TRITON_CACHE_DIR": str(state / "triton"),
    }
    if gpu_share is not None:
        command += ["--gpu-memory-utilization", f"{gpu_share:.2f}"]
    else:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(cache_gib)
        environment["VLLM_CPU_OMP_THREADS_BIND"] = cores
    return command, environment


def options(
    *, lora_rank: int, lora_target_modules: Sequence[str], dtype: str = "float32"
) -> list[str]:
    """Return the options that Pairloop relies on, wherever its vLLM runs."""
    return [
        *("--dtype", dtype),
        *("--max-model-len", str(CONTEXT_LENGTH)),
        *("--max-num-seqs", str(SEQUENCES)),
        "--enable-lora",
        *("--max-loras", str(ADAPTERS_IN_BATCH)),
        *("--max-cpu-loras", str(ADAPTERS_IN_MEMORY)),
        *("--max-lora-rank", str(lora_rank_room(lora_rank))),
        # Not the head: on a CPU, vLLM 0.32 dies of a prompt's log-probabilities beside another request when
        # the head may have an adapter, and multiplies by it for every token even when none has one.
        *("--lora-target-modules", *lora_target_modules),
        # The base's own generation_config.json would change what temperature 1 means.
        *("--generation-config", "vllm"),
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
    ]


def lora_rank_room(rank: int) -> int:
    """Return the smallest of vLLM's ranks that holds an adapter of this rank."""
    for room in LORA_RANKS:
        if rank <= room:
            return room
    raise ValueError(f"rank {rank} is above {LORA_RANKS[-1]}, the highest that vLLM serves")


def memory_needed(*, parameters: int, cache_gib: int) -> int:
    """Return about how many bytes of memory one vLLM takes on a CPU, its weights in float32."""
    return parameters * 4 + cache_gib * 2**30 + OVERHEAD


def cores_available() -> str:
    """Return the cores this process may use, as vLLM takes them: "0-3" or "0,2,5"."""
    cores = sorted(os.sched_getaffinity(0))
    if cores == list(range(cores[0], cores[-1] + 1)):
        return f"{cores[0]}-{cores[-1]}"
    return ",".join(str(core) for core in cores)


def gpu_present() -> bool:
    """Return whether the machine has an NVIDIA GPU whose driver is loaded."""
    return Path("/dev/nvidiactl").exists() and Path("/proc/driver/nvidia/version").exists()
