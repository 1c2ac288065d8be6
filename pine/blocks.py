"""Work in blocks of rows, so that no step holds a matrix of scores for a whole prompt."""

from __future__ import annotations

from collections.abc import Iterator

ROWS_BUDGET = 1 << 22  # numbers that one block of rows may hold, per batch row: 16 MB in float32


def row_blocks(rows: int, per_row: int, budget: int = ROWS_BUDGET) -> Iterator[slice]:
    """Yield slices of rows such that each block holds at most `budget` numbers."""
    step = max(1, budget // max(1, per_row))
    for first in range(0, rows, step):
        yield slice(first, min(rows, first + step))
