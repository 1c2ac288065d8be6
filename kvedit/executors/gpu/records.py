"""What rows look at, in the form that a kernel reads: a record of numbers for each sight.

Spans lie in buffers of their own: a record says where (see `layout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.executors.gpu import layout, tiling
from kvedit.executors.gpu.tiling import Tiling
from kvedit.rotary import TABLE_REACH
from kvedit.sight import Sight
from kvedit.spans import SpanSet
from kvedit.visibility import EVERYTHING

VECTOR = 16  # bytes that a thread loads at once, from an address that they divide


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A set of spans of which is known where each appears: whole, to all rows.

    appears  [batch, heads, query, spans] int64, positions
    """

    spans: SpanSet
    tiling: Tiling
    appears: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """All that some rows look at.

    table          [records, `layout.FIELDS`] int64, on their device
    pieces, spans, tokens
                   of all records
    far            whether a row may be `TABLE_REACH` tokens or more from the origin of a frame
    aligned        whether keys and values may be loaded by whole vectors
    kept           what addresses in the table are of, beside keys and values
    """

    table: Tensor
    pieces: int
    spans: int
    tokens: int
    far: bool
    aligned: bool
    kept: Sequence[Tensor]

    @classmethod
    def of(cls, sights: Sequence[Sight | Placed], place: int, query: Tensor) -> Records:
        """Write down what some rows see.

        place  position of the first row; the others follow
        query  [batch, heads, query, dim] of the rows
        """
        rows, kept, far, whole = list[list[int]](), list[Tensor](), False, True
        pieces = spans = tokens = 0
        for sight in sights:
            if isinstance(sight, Placed):
                record, given = _placed(sight, place), [sight.appears]
                sizes, count = sight.tiling.sizes, len(sight.tiling.pieces)
                buffers = (sight.spans.framed, sight.spans.values)
            else:
                record, given = _standing(sight, place, query)
                sizes, count = (record[layout.HELD],), -(-record[layout.HELD] // tiling.PIECE)
                buffers = (sight.span.keys, sight.span.values)
            if not count:
                continue
            record[layout.PIECE] = pieces
            rows.append(record)
            kept += given
            pieces, spans, tokens = pieces + count, spans + len(sizes), tokens + sum(sizes)
            far = far or _is_far(record, query.shape[2])
            whole = whole and all(aligned(each) for each in buffers)
        table = torch.tensor(rows, dtype=torch.int64).view(-1, layout.FIELDS.value)
        # not blocking: the GPU may still be busy with the layer before
        table = table.to(query.device, non_blocking=True)
        return cls(table, pieces, spans, tokens, far, whole, kept)


def _standing(sight: Sight, place: int, query: Tensor) -> tuple[list[int], list[Tensor]]:
    """Return the record of one span, and what is to be kept while the kernel reads it."""
    (batch, heads, count, _), span, kept = query.shape, sight.span, list[Tensor]()
    begin, end, bounds = _seen(sight, int(sight.own(place)), count)
    record = _buffers(span.keys[:, :, begin:end], span.values[:, :, begin:end], query)
    record[layout.HELD] = end - begin
    record[layout.LOWER : layout.COUNTS] = bounds
    record[layout.DISTANCE_STEP] = 1
    if sight.away is not None:
        record[layout.DISTANCE], record[layout.DISTANCE_STEP] = sight.away, 0
    elif isinstance(sight.start, int):
        record[layout.DISTANCE] = place - sight.start
    else:
        start = sight.start.to(query.device, torch.int64).expand(batch, heads, count)
        record[layout.DISTANCE], record[layout.STARTS] = place, start.data_ptr()
        record[layout.STARTS_BATCH : layout.STARTS_SPAN] = start.stride()
        kept.append(start)
    if isinstance(sight.visible.count, Tensor):
        counts = sight.visible.count.to(query.device, torch.int64) - span.first - begin
        kept.append(counts.expand(count).contiguous())
        record[layout.COUNTS] = kept[-1].data_ptr()
    return record, kept


def _seen(sight: Sight, own: int, rows: int) -> tuple[int, int, Sequence[int]]:
    """Return which of the held tokens any row sees, and fields `LOWER` to `MOST` among these.

    own  the first row's index in the span's frame

    Three rows at 8 to 10 that see 4 tokens each see 5 to before 11 of 20, by bounds 0 1, 4 1, 6.
    """
    first, held, visible = sight.span.first, sight.span.held, sight.visible
    lower = (0, 0)
    most = min(held, visible.count - first) if isinstance(visible.count, int) else held
    if visible.farthest is not None:
        lower = (own - visible.farthest + 1 - first, 1)
    upper = (most, 0) if visible.nearest is None else (own - visible.nearest + 1 - first, 1)
    begin = min(max(lower[0], 0), held)
    end = min(max(upper[0] + upper[1] * (rows - 1), begin), max(most, begin))
    return begin, end, (lower[0] - begin, lower[1], upper[0] - begin, upper[1], most - begin)


def _placed(sight: Placed, place: int) -> list[int]:
    """Return the record of a set."""
    record = _buffers(sight.spans.framed, sight.spans.values, sight.spans.framed)
    record[layout.LISTED] = sight.tiling.pieces.data_ptr()
    record[layout.DISTANCE], record[layout.DISTANCE_STEP] = place, 1
    record[layout.STARTS] = sight.appears.data_ptr()
    record[layout.STARTS_BATCH : layout.STARTS_SPAN + 1] = sight.appears.stride()
    record[layout.UPPER] = record[layout.MOST] = EVERYTHING
    return record


def _buffers(keys: Tensor, values: Tensor, query: Tensor) -> list[int]:
    """Return a record that says where keys and values are, [batch, kv_heads, kv, dim]."""
    record = [0] * layout.FIELDS.value
    for at, held in ((layout.KEYS, keys), (layout.VALUES, values)):
        assert held.dtype == query.dtype and in_rows(held), "tokens of a head follow one another"
        record[at] = held.data_ptr()
    record[layout.KEYS_BATCH : layout.VALUES_BATCH] = keys.stride()[:2]
    record[layout.VALUES_BATCH : layout.HELD] = values.stride()[:2]
    return record


def _is_far(record: list[int], rows: int) -> bool:
    """Return whether some of the rows may be far; what a tensor of starts says is not looked at."""
    if record[layout.STARTS] and not record[layout.LISTED]:
        return True
    last = record[layout.DISTANCE] + record[layout.DISTANCE_STEP] * (rows - 1)
    return bool(max(abs(record[layout.DISTANCE]), abs(last)) >= TABLE_REACH)


def in_rows(tokens: Tensor) -> bool:
    """Return whether tokens follow one another, [batch, kv_heads, kv, dim], without a gap."""
    _, _, count, dim = tokens.shape
    return (count < 2 or tokens.stride(2) == dim) and tokens.stride(3) == 1


def alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape lie alike; how far apart a single row is, is free."""
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return one.shape == other.shape and all(n < 2 or a == b for n, a, b in strides)


def aligned(tokens: Tensor) -> bool:
    """Return whether all tokens, [batch, kv_heads, kv, dim], can be loaded by whole vectors."""
    strides = [n for size, n in zip(tokens.shape[:3], tokens.stride()[:3], strict=True) if size > 1]
    steps = (tokens.element_size() * each for each in (tokens.shape[3], *strides))
    return not any(each % VECTOR for each in (tokens.data_ptr(), *steps))
