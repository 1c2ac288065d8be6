"""What a few rows read, above all one that decodes: one call of a compiled loop.

This runs once a layer and token: between two calls it counts every object that is made.
"""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from kvedit.executors.cpu.loops import FIXED, FRESH_FROM, MOST_ROWS, FewTask, read_few
from kvedit.executors.cpu.pieces import PIECE, Cut
from kvedit.reading import Layer
from kvedit.rotary import TABLE_REACH, RotaryGeometry
from kvedit.sight import Ranked, Rows, Sight
from kvedit.visibility import Bound, everything

NOTHING = torch.empty((0, 0))


def fits(layer: Layer, query: Tensor, rows: Rows) -> bool:
    """Return whether the loop can read for these rows' queries, [batch, heads, query, dim]."""
    batch, _, count, _ = query.shape
    if layer.softcap is not None or query.dtype is not torch.float32:
        return False
    if batch != 1 or not 0 < count <= MOST_ROWS:
        return False
    ranked, fixed, near = 0, 0, rows.place + count <= TABLE_REACH
    for sight in rows.sights:
        if isinstance(sight, Ranked):
            if sight.own is not None:
                return False
            ranked += 1
        elif not isinstance(sight.start, int):
            return False
        elif sight.span.held:
            fixed += 1
            distance = int(sight.distance(rows.place))
            near = near and 0 <= distance <= TABLE_REACH - count
            near = near and sight.span.length <= TABLE_REACH
    # a set's spans may need any angle: one table must have them all
    return fixed > 0 and (ranked == 0 or (ranked == 1 and near))


def read(layer: Layer, cut: Cut | None, query: Tensor, rows: Rows) -> Tensor:
    """Return what rows read, [1, heads, query, dim], and cache what they see that is new.

    cut  of the ranked set, where there is one
    """
    query = query.contiguous()
    _, heads, count, dim = query.shape
    known, ranked = _Records(), None
    for sight in rows.sights:
        if isinstance(sight, Ranked):
            ranked = sight
        elif sight.span.held:
            known.add(sight, rows.place, count)
    table = known.angles(layer.geometry, rows.place + count)
    numbers = array("q", known.numbers)
    output = torch.empty_like(query)
    task = FewTask(
        query=query.data_ptr(),
        fixed=numbers.buffer_info()[0],
        table=table.data_ptr(),
        output=output.data_ptr(),
        heads=heads,
        kv_heads=known.kv_heads,
        rows=count,
        dim=dim,
        positions=table.shape[0],
        fixed_count=len(numbers) // FIXED,
        count=known.pieces,
        start=rows.place,
        scaling=layer.scaling,
    )
    if layer.geometry is not None:
        task.pairs, task.width = layer.geometry.pairs.data_ptr(), layer.geometry.width
    weight = NOTHING
    if ranked is not None and cut is not None:
        weight = query.new_empty((1, heads, count, cut.lengths.shape[0]))
        _add_set(task, ranked, cut, weight)
    scratch = query.new_empty(task.needed)
    task.scratch = scratch.data_ptr()
    read_few(task)
    if ranked is not None and ranked.told is not None:
        ranked.told(weight)
    return output


class _Records:
    """What the loop must know of spans that are not ranked (see `loops.FewTask`).

    numbers   the records, one after the other
    pieces    of all of them
    kv_heads  key heads
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.pieces = 0
        self.kv_heads = 0
        self._angles: list[int] = []  # indices of those numbers that are positions
        self._kept: list[Tensor] = []  # what is named by its address alone

    def add(self, sight: Sight, place: int, count: int) -> None:
        """Add the record of a span that rows see, which stand from `place` on."""
        span, numbers, angles = sight.span, self.numbers, self._angles
        keys, values, begin, fresh = span.claim(MOST_ROWS)
        _, self.kv_heads, _, dim = keys.shape
        held, written, key_at, value_at = span.held, 0, 0, 0
        if fresh is not None:
            key, value = fresh[0].contiguous(), fresh[1].contiguous()
            self._kept += (key, value)
            written, key_at, value_at = key.shape[2], key.data_ptr(), value.data_ptr()
        end = len(numbers) + FIXED
        numbers += (keys.data_ptr(), values.data_ptr(), keys.stride(1) // dim, begin, held)
        numbers += (written, key_at, value_at, span.geometry is not None)
        for row in range(count):
            angles.append(len(numbers))
            numbers.append(int(sight.distance(place + row)))
            numbers += _seen(sight, place, row)
        numbers += [0] * (end - FIXED + FRESH_FROM - len(numbers))
        for token in range(span.length - written, span.length):
            angles.append(len(numbers))
            numbers.append(token)
        numbers += [0] * (end - len(numbers))
        self.pieces += -(-held // PIECE)

    def angles(self, geometry: RotaryGeometry | None, reach: int) -> Tensor:
        """Return a table of angles, [rows, 2 * width]; positions become its rows.

        reach  positions that a set's spans may need
        """
        if geometry is None:
            return NOTHING
        wanted = [self.numbers[index] for index in self._angles]
        most = max(*wanted, reach - 1)
        if most < TABLE_REACH and min(wanted) >= 0:
            return geometry.table(most + 1)
        table, [rows] = geometry.rows_of([wanted], reach)
        for index, row in zip(self._angles, rows, strict=True):
            self.numbers[index] = row
        return table


def _seen(sight: Sight, place: int, row: int) -> tuple[int, int]:
    """Return which of the tokens that a span holds a row sees: the first, and after the last."""
    span, held = sight.span, sight.span.held
    if sight.visible is everything:
        return 0, held
    lower, upper = sight.visible.bounds(sight.own(place + row))
    first, last = _end(lower, row) - span.first, _end(upper, row) - span.first
    return min(max(first, 0), held), min(max(last, 0), held)


def _end(bound: Bound, row: int) -> int:
    """Return the end of what one of the rows sees."""
    return int(bound[row]) if isinstance(bound, Tensor) and bound.dim() else int(bound)


def _add_set(task: FewTask, ranked: Ranked, cut: Cut, weight: Tensor) -> None:
    """Tell the task of the set, whose pieces come first."""
    spans = ranked.spans
    task.raw, task.framed = spans.raw.data_ptr(), spans.framed.data_ptr()
    task.values, task.pieces = spans.values.data_ptr(), cut.pieces.data_ptr()
    task.lengths, task.weight = cut.lengths.data_ptr(), weight.data_ptr()
    task.kv_heads, task.slots = spans.raw.shape[1:3]
    task.spans, task.inside = cut.lengths.shape[0], cut.pieces.shape[0]
    task.count += task.inside
    task.end = ranked.end
