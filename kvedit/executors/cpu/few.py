"""What a few rows read, above all one that decodes: one call of a compiled loop."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.executors.cpu.loops import FIXED, FRESH_FROM, MOST_ROWS, FewTask, read_few
from kvedit.executors.cpu.pieces import PIECE, Cut
from kvedit.reading import Layer
from kvedit.rotary import TABLE_REACH, Places
from kvedit.sight import Ranked, Rows, Sight
from kvedit.visibility import Bound

NOTHING = torch.empty((0, 0))


def fits(layer: Layer, query: Tensor, rows: Rows) -> bool:
    """Return whether the loop can read for these rows' queries, [batch, heads, query, dim]."""
    if query.shape[0] != 1 or not 0 < rows.count <= MOST_ROWS or query.dtype != torch.float32:
        return False
    ranked = [sight for sight in rows.sights if isinstance(sight, Ranked)]
    still = all(isinstance(each, Ranked) or isinstance(each.start, int) for each in rows.sights)
    if layer.softcap is not None or not still:
        return False
    return not ranked or (len(ranked) == 1 and ranked[0].own is None and _near(rows))


def _near(rows: Rows) -> bool:
    """Return whether one table has all angles, those that a set's spans may need among them."""
    reach = rows.place + rows.count <= TABLE_REACH
    fixed = [each for each in rows.sights if isinstance(each, Sight)]
    distances = (int(each.distance(rows.place)) for each in fixed)
    seen = all(0 <= distance <= TABLE_REACH - rows.count for distance in distances)
    return reach and seen and all(each.span.length <= TABLE_REACH for each in fixed)


def read(layer: Layer, cut: Cut | None, query: Tensor, rows: Rows) -> Tensor:
    """Return what rows read, [1, heads, query, dim], and cache what they see that is new.

    cut  of the ranked set, where there is one
    """
    query = query.contiguous()
    _, heads, count, dim = query.shape
    fixed = [each for each in rows.sights if isinstance(each, Sight) and each.span.held]
    ranked = next((each for each in rows.sights if isinstance(each, Ranked)), None)
    spans = [_claimed(each) for each in fixed]
    table, records = _records(layer, fixed, spans, rows)
    output = torch.empty_like(query)
    task = FewTask(
        query=query.data_ptr(),
        fixed=ctypes.addressof(records),
        table=table.data_ptr(),
        output=output.data_ptr(),
        heads=heads,
        rows=count,
        dim=dim,
        positions=len(table),
        fixed_count=len(fixed),
        count=sum(-(-each.span.held // PIECE) for each in fixed),
        start=rows.place,
        scaling=layer.scaling,
    )
    if layer.geometry is not None:
        task.pairs, task.width = layer.geometry.pairs.data_ptr(), layer.geometry.width
    weight = NOTHING
    if ranked is not None and cut is not None:
        weight = query.new_empty((1, heads, count, len(cut.lengths)))
        _add_set(task, ranked, cut, weight)
    else:
        task.kv_heads = spans[0].keys.shape[1]
    scratch = query.new_empty(task.needed)
    task.scratch = scratch.data_ptr()
    read_few(task)
    if ranked is not None and ranked.told is not None:
        ranked.told(weight)
    return output


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A span's buffers as the loop takes them, and what it writes there.

    keys, values  [1, kv_heads, room, dim]
    begin         index of the oldest token that is held
    fresh         keys and values to be written, contiguous, or None
    """

    keys: Tensor
    values: Tensor
    begin: int
    fresh: tuple[Tensor, Tensor] | None


def _claimed(sight: Sight) -> _Claimed:
    keys, values, begin, fresh = sight.span.claim(MOST_ROWS)
    if fresh is not None:
        fresh = (fresh[0].contiguous(), fresh[1].contiguous())
    return _Claimed(keys, values, begin, fresh)


def _records(
    layer: Layer, sights: Sequence[Sight], spans: Sequence[_Claimed], rows: Rows
) -> tuple[Tensor, ctypes.Array[ctypes.c_int64]]:
    """Return the table of angles, and a record for each span (see `loops.FewTask`)."""
    places = [rows.place + row for row in range(rows.count)]
    turns = [[int(sight.distance(place)) for place in places] for sight in sights]
    for sight, claimed, own in zip(sights, spans, turns, strict=True):
        fresh = 0 if claimed.fresh is None else claimed.fresh[0].shape[2]
        own += range(sight.span.length - fresh, sight.span.length)
    table: Tensor = NOTHING
    numbers: Places = turns
    if layer.geometry is not None:
        reach = rows.place + rows.count
        table, numbers = layer.geometry.rows_of(turns, reach)
    records: list[int] = []
    for sight, claimed, number in zip(sights, spans, numbers, strict=True):
        records += _record(sight, claimed, places, number)
    return table, (ctypes.c_int64 * len(records))(*records)


def _record(
    sight: Sight, claimed: _Claimed, places: Sequence[int], numbers: Sequence[int]
) -> list[int]:
    span, (key, value) = sight.span, claimed.fresh or (None, None)
    record = [
        claimed.keys.data_ptr(),
        claimed.values.data_ptr(),
        claimed.keys.stride(1) // claimed.keys.shape[3],
        claimed.begin,
        span.held,
        0 if key is None else key.shape[2],
        0 if key is None else key.data_ptr(),
        0 if value is None else value.data_ptr(),
        span.geometry is not None,
    ]
    for row, place in enumerate(places):
        ends = (_end(each, row) - span.first for each in sight.visible.bounds(sight.own(place)))
        record += [numbers[row], *(min(max(end, 0), span.held) for end in ends)]
    record += [0] * (FRESH_FROM - len(record))
    record += numbers[len(places) :]
    return record + [0] * (FIXED - len(record))


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
    task.spans, task.inside = len(cut.lengths), len(cut.pieces)
    task.count += task.inside
    task.end = ranked.end
