"""Advice about memory changes nothing of what it holds."""

from __future__ import annotations

from pathlib import Path

import torch

from kvedit.kernels import memory

SIZE = 8 * 2**20


def resident(address: int) -> int:
    """Return how many KiB of the mapping at an address are in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        start, _, end = line.split(" ")[0].partition("-")
        if end and int(start, 16) <= address < int(end, 16):
            return next(int(each.split()[1]) for each in lines if each.startswith("Rss"))
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


def test_memory_that_is_no_files_is_left_alone() -> None:
    numbers = torch.arange(SIZE // 8)
    memory.forget(numbers.data_ptr(), SIZE)
    memory.gather(numbers.data_ptr(), SIZE)
    assert torch.equal(numbers, torch.arange(SIZE // 8))
