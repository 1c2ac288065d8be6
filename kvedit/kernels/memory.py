"""Advice to Linux about the memory that weights lie in; where it is not taken, nothing changes."""

from __future__ import annotations

import ctypes

PAGE = 4096  # bytes
LARGE = 2 * 2**20  # bytes of a large page: one look into the page table for 512 small ones
# advice of Linux that its headers number so
HUGEPAGE, PAGEOUT, COLLAPSE = 14, 21, 25


def gather(address: int, size: int) -> None:
    """Put what lies there into large pages: reading it from end to end is then a tenth faster.

    So is what shares the first and the last page with it, such as the weights of the next layer.
    """
    first, last = address // LARGE * LARGE, -(-(address + size) // LARGE) * LARGE
    _advise(first, last, HUGEPAGE, COLLAPSE)


def forget(address: int, size: int) -> None:
    """Say that pages are not needed soon; those of a file leave memory, and are read again if.

    A file's pages would else count as the process's own until all of its weights are packed.
    """
    first, last = -(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE
    _advise(first, last, PAGEOUT)


def _advise(first: int, last: int, *advice: int) -> None:
    """Give advice about the pages from the first one's address to the last one's end."""
    try:
        advise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return
    for each in advice if last > first else ():
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), each)
