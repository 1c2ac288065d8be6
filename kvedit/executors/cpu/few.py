"""What a few rows read, above all one that decodes, of one sequence or many: one compiled call.

This runs once a layer, sequence and token: between two calls it counts every object that is made.
"""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from kvedit.executors.cpu.loops import FIXED, FRESH_FROM, MOST_ROWS, READS, FewTask, ManyTask
from kvedit.executors.cpu.pieces import PIECE, Cut
from kvedit.executors.cpu.team import converts
from kvedit.executors.runs import blank
from kvedit.reading import Layer
from kvedit.rotary import TABLE_REACH
from kvedit.sight import Ranked, Rows, Sight
from kvedit.visibility import Bound, everything

NOTHING = torch.empty((0, 0))
FLOAT_BYTES = 4


def fits(query: Tensor, rows: Rows) -> bool:
    """Return whether the loop can read for these rows, of whose forward these are the queries.

    query  [batch, heads, query, dim], of these rows or of more
    """
    count = rows.count
    if query.shape[0] != 1 or not 0 < count <= MOST_ROWS or not converts(query.dtype):
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


class Step:
    """Rows of one sequence or several, gathered for one call.

    query   [1, heads, query, dim]  of all of them, not rotated
    output  [1, heads, query, dim]  as from `blank`; written where somebody reads
    """

    def __init__(self, layer: Layer, query: Tensor, output: Tensor) -> None:
        self._layer = layer
        self._query = query if query.stride(-1) == 1 else query.contiguous()
        self._output = output
        self._tasks: list[FewTask] = []
        self._kept: list[object] = []  # what is named by its address alone
        query, geometry = self._query, layer.geometry
        self._common = task = FewTask(scaling=layer.scaling, softcap=layer.softcap or 0.0)
        task.query, task.output, task.size = query.data_ptr(), output.data_ptr(), query.itemsize
        _, task.heads, _, task.dim = query.shape
        _, task.asks_head, task.asks_row, _ = query.stride()
        _, task.makes_head, task.makes_row, _ = output.stride()
        if geometry is not None:
            task.pairs, task.width = geometry.pairs.data_ptr(), geometry.width

    def add(self, rows: Rows, cut: Cut | None, first: int = 0) -> Tensor:
        """Add rows that fit; once the call is made, what they see that is new is cached.

        cut      of the ranked set, where there is one
        first    the first row among the queries
        returns  [1, heads, query, spans] float32, what rows will rank by, if they rank anything
        """
        records, ranked, count, place = _Records(self._query.dtype), None, rows.count, rows.place
        for sight in rows.sights:
            if isinstance(sight, Ranked):
                ranked = sight
            elif sight.span.held:
                records.add(sight, place, count)
        table, weight = records.angles(self._layer, place + count), NOTHING
        numbers = array("q", records.numbers)
        task = FewTask.from_buffer_copy(self._common)
        if first:
            task.query += first * task.asks_row * task.size
            task.output += first * task.makes_row * task.size
        task.fixed, task.fixed_count = numbers.buffer_info()[0], len(numbers) // FIXED
        task.table, task.positions = table.data_ptr(), table.shape[0]
        task.kv_heads, task.count = records.kv_heads, records.pieces
        task.rows, task.start = count, place
        if ranked is not None and cut is not None:
            weight = torch.empty((1, task.heads, count, cut.lengths.shape[0]))
            _add_set(task, ranked, cut, weight)
        self._kept += (table, numbers, records, weight)
        self._tasks.append(task)
        return weight

    def run(self) -> None:
        """Read."""
        if not self._tasks:
            return
        needed = [task.needed for task in self._tasks]
        scratch = torch.empty(sum(needed))
        place, addresses = scratch.data_ptr(), array("q")
        for task, own in zip(self._tasks, needed, strict=True):
            task.scratch = place
            place += own * FLOAT_BYTES
            addresses.append(task.address)
        count = len(addresses)
        READS[self._query.dtype](ManyTask(tasks=addresses.buffer_info()[0], count=count))


def read(layer: Layer, cut: Cut | None, query: Tensor, rows: Rows) -> Tensor:
    """Return what rows read, [1, heads, query, dim], and cache what they see that is new.

    query  [1, heads, query, dim]  of these rows alone
    cut    of the ranked set, where there is one
    """
    output = blank(query)
    step = Step(layer, query, output)
    weight = step.add(rows, cut)
    step.run()
    tell(rows, weight)
    return output


def tell(rows: Rows, weight: Tensor) -> None:
    """Tell who wants to know what rows ranked by."""
    for sight in rows.sights:
        if isinstance(sight, Ranked) and sight.told is not None:
            sight.told(weight)


class _Records:
    """What the loop must know of spans that are not ranked (see `loops.FewTask`).

    numbers   the records, one after the other
    pieces    of all of them
    kv_heads  key heads
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.numbers: list[int] = []
        self.pieces = 0
        self.kv_heads = 0
        self._dtype = dtype
        self._angles: list[int] = []  # indices of those numbers that are positions
        self._kept: list[Tensor] = []  # what is named by its address alone

    def add(self, sight: Sight, place: int, count: int) -> None:
        """Add the record of a span that rows see, which stand from `place` on."""
        span, numbers, angles = sight.span, self.numbers, self._angles
        keys, values, begin, fresh = span.claim(MOST_ROWS)
        assert keys.dtype == values.dtype == self._dtype, "a model's vectors are of one dtype"
        self.kv_heads, room = keys.shape[1], keys.stride(1) // keys.shape[3]
        held, written = span.held, 0
        source: tuple[int, ...] = (0,) * 6
        if fresh is not None:
            key, key_head, key_token = _steps(fresh[0])
            value, value_head, value_token = _steps(fresh[1])
            self._kept += (key, value)
            written, source = key.shape[2], (key.data_ptr(), value.data_ptr())
            source += (key_head, key_token, value_head, value_token)
        end = len(numbers) + FIXED
        numbers += (keys.data_ptr(), values.data_ptr(), room, begin, held, written, *source)
        numbers.append(span.geometry is not None)
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

    def angles(self, layer: Layer, reach: int) -> Tensor:
        """Return a table of angles, [rows, 2 * width]; positions become its rows.

        reach  positions that a set's spans may need
        """
        geometry = layer.geometry
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


def _steps(vectors: Tensor) -> tuple[Tensor, int, int]:
    """Return vectors that lie whole, and the steps from head to head and token to token."""
    _, head, token, one = vectors.stride()
    if one != 1:
        vectors = vectors.contiguous()
        _, head, token, _ = vectors.stride()
    return vectors, head, token


def _seen(sight: Sight, place: int, row: int) -> tuple[int, int]:
    """Return which of the tokens that a span holds a row sees: the first, and after the last."""
    span, held = sight.span, sight.span.held
    if sight.visible is everything:
        return 0, held
    lower, upper = sight.visible.bounds(sight.own(place + row))
    first, last = _end(lower, row) - span.first, _end(upper, row) - span.first
    if first <= 0 and last >= held:
        return 0, held
    return min(max(first, 0), held), min(max(last, 0), held)


def _end(bound: Bound, row: int) -> int:
    """Return the end of what one of the rows sees."""
    if isinstance(bound, int):
        return bound
    return int(bound[row]) if bound.dim() else int(bound)


def _add_set(task: FewTask, ranked: Ranked, cut: Cut, weight: Tensor) -> None:
    """Tell a task of its set, whose pieces come first."""
    spans = ranked.spans
    task.raw, task.framed = spans.raw.data_ptr(), spans.framed.data_ptr()
    task.values, task.pieces = spans.values.data_ptr(), cut.pieces.data_ptr()
    task.lengths, task.weight = cut.lengths.data_ptr(), weight.data_ptr()
    task.kv_heads, task.slots = spans.raw.shape[1:3]
    task.spans, task.inside = cut.lengths.shape[0], cut.pieces.shape[0]
    task.count += task.inside
    task.end = ranked.end
