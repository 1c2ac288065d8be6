"""Advice to Linux about the memory that weights lie in; where it is not taken, nothing changes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

MAPS = Path("/proc/self/maps")
PAGE = 4096  # bytes
LARGE = 2 * 2**20  # bytes of a large page: one look into the page table for 512 small ones
# advice of Linux that its headers number so
DONTNEED, HUGEPAGE, COLLAPSE = 4, 14, 25


def gather(address: int, size: int) -> None:
    """Put what lies there into large pages: reading it from end to end is then a tenth faster.

    So is what shares the first and the last page with it, such as the weights of the next layer;
    these two are asked for by themselves, since advice stops where it meets memory of other kinds.
    """
    first, last = -(-address // LARGE) * LARGE, (address + size) // LARGE * LARGE
    for start, end in ((first, last), (first - LARGE, first), (last, last + LARGE)):
        _advise(start, end, HUGEPAGE, COLLAPSE)


def forget(address: int, size: int) -> None:
    """Let go of pages of a file that nobody reads any more; what was written to them is lost.

    They would count as the process's own until the last weight of the file is packed. Memory that
    is no file's is left alone: it would be lost.
    """
    first, last = -(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE
    if any(start <= first and last <= end for start, end in _files()):
        _advise(first, last, DONTNEED)


def _files() -> Iterator[tuple[int, int]]:
    """Yield where files that nobody can write to through their pages are mapped."""
    for line in MAPS.read_text().splitlines() if MAPS.exists() else ():
        addresses, permissions, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0" and permissions.endswith("p"):
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)


def _advise(first: int, last: int, *advice: int) -> None:
    """Give advice about the pages from the first one's address to the last one's end."""
    try:
        advise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return
    for each in advice if last > first else ():
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), each)
