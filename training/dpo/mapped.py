"""Weights that are mapped from their file: in memory only while somebody reads them."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from torch import Tensor

#: Of mman.h: pages of a file that nobody wrote to are forgotten, and read again from the file when they are wanted.
MADV_DONTNEED = 4


def is_mapped(tensor: Tensor) -> bool:
    """Return whether all of a tensor lies in one mapping of a file; what lies elsewhere would be lost when forgotten."""
    first, last = _ends(tensor)
    for mapping in _mappings():
        addresses, _, _, _, inode, *_ = mapping.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        if start <= first and last <= end:
            return inode != "0"
    return False


def forget(tensor: Tensor) -> None:
    """Give back the memory of a mapped tensor, which nobody may ever have written to."""
    first, last = _ends(tensor)
    # Whole pages only: its neighbours share the first and the last one.
    first, last = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_DONTNEED
        )


def _ends(tensor: Tensor) -> tuple[int, int]:
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size()


def _mappings() -> list[str]:
    try:
        return Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
