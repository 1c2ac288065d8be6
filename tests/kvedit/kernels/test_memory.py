"""Advice about memory changes nothing of what it holds."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest
import torch

from kvedit.kernels import memory

SIZE = 8 * 2**20
MAP_FIXED = 0x10


def resident(address: int, kind: str = "Rss") -> int:
    """Return how many KiB of the mapping at an address are in memory, or of some kind."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        start, _, end = line.split(" ")[0].partition("-")
        if end and int(start, 16) <= address < int(end, 16):
            return next(int(each.split()[1]) for each in lines if each.startswith(kind))
    raise AssertionError(address)


def test_a_files_pages_are_let_go_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * (SIZE // 256))
    numbers = torch.from_file(str(file), shared=False, size=SIZE, dtype=torch.uint8)
    total = int(numbers.long().sum())
    before = resident(numbers.data_ptr())
    memory.forget(numbers.data_ptr(), SIZE)
    assert resident(numbers.data_ptr()) < before / 2
    assert int(numbers.long().sum()) == total


def test_large_pages_are_made_beside_a_file_too(tmp_path: Path) -> None:
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("the system makes no large pages")
    file = tmp_path / "weights"
    file.write_bytes(b" " * SIZE)
    with file.open("rb") as opened:
        # pages of a file, then of nobody, so that a large page would begin among the first
        begin = mmap.mmap(-1, 4 * SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(begin))
        start = -(-address // memory.LARGE) * memory.LARGE
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        fixed = mmap.MAP_PRIVATE | MAP_FIXED
        given = (ctypes.c_void_p(start), ctypes.c_size_t(memory.LARGE // 2), mmap.PROT_READ, fixed)
        assert libc.mmap(*given, opened.fileno(), ctypes.c_long(0)) == start
        own = start + memory.LARGE // 2
        ctypes.memset(own, 1, SIZE)
        memory.gather(own, SIZE)
        assert resident(own, "AnonHugePages") >= (SIZE - 2 * memory.LARGE) // 1024


def test_memory_that_is_no_files_is_left_alone() -> None:
    numbers = torch.arange(SIZE // 8)
    memory.forget(numbers.data_ptr(), SIZE)
    memory.gather(numbers.data_ptr(), SIZE)
    assert torch.equal(numbers, torch.arange(SIZE // 8))
