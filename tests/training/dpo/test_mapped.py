"""Memory of mapped weights is given back, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.dpo import mapped


def resident(tensor: torch.Tensor) -> int:
    """Return how many kilobytes of the tensor's mapping are in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    found = False
    for line in lines:
        first = line.split()[0]
        if "-" in first:
            start, end = (int(address, 16) for address in first.split("-"))
            found = start <= tensor.data_ptr() < end
        elif found and first == "Rss:":
            return int(line.split()[1])
    raise AssertionError("no such mapping")


def test_forgets_a_file_and_reads_it_again(tmp_path: Path) -> None:
    written = torch.arange(1 << 20, dtype=torch.float32)
    save_file({"weight": written}, tmp_path / "base.safetensors")
    tensor = load_file(tmp_path / "base.safetensors")["weight"]
    assert mapped.is_mapped(tensor)
    assert torch.equal(tensor, written)
    before = resident(tensor)

    mapped.forget(tensor)

    assert before > 4000
    assert resident(tensor) < 100
    assert torch.equal(tensor, written)


def test_knows_memory_that_is_no_file() -> None:
    assert not mapped.is_mapped(torch.zeros(1 << 20))
    assert not mapped.is_mapped(torch.zeros(3))
