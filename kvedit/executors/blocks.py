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


def head_blocks(
    kv_heads: int, group: int, per_head: int, budget: int
) -> Iterator[tuple[slice, slice]]:
    """Yield slices of key heads, as `row_blocks` does of rows, and of the query heads they serve.

    group     query heads per key head
    per_head  numbers that one key head holds

    Four key heads of which two fit, with three query heads each: 0-2 and 0-6, 2-4 and 6-12.
    """
    for some in row_blocks(kv_heads, per_head, budget):
        yield some, slice(some.start * group, some.stop * group)
