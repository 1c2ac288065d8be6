"""Work in blocks of rows, so that no step holds a matrix of scores for a whole prompt."""

from __future__ import annotations

from collections.abc import Iterator

ROWS_BUDGET = 1 << 22  # numbers that one block of rows may hold, per batch row: 16 MB in float32


def row_blocks(rows: int, per_row: int, budget: int = ROWS_BUDGET) -> Iterator[slice]:
    """Yield slices of rows, of about one size, of which each holds at most `budget` numbers.

    Four rows of which three would fit are cut into two and two.
    """
    most = max(1, budget // max(1, per_row))
    step = max(1, -(-rows // -(-rows // most))) if rows else 1
    for first in range(0, rows, step):
        yield slice(first, min(rows, first + step))
