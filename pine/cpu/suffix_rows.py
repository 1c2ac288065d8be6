"""What a few suffix tokens read, above all one that decodes: one call of a compiled loop."""

from __future__ import annotations

import torch
from torch import Tensor

from kvedit.reading import Layer
from kvedit.rotary import TABLE_REACH
from pine.cache import Cached
from pine.cpu.cut import Cut
from pine.cpu.loops import SuffixTask, read_suffix
from pine.explanation import Explanation

NO_TABLE, NO_PAIRS = torch.empty((0, 0)), torch.empty(0, dtype=torch.int64)
FEW = 4  # rows: many multiply faster by products of matrices


def fits(layer: Layer, query: Tensor, start: int) -> bool:
    """Return whether the loop can read for this query, [batch, heads, query, dim]."""
    few = query.shape[0] == 1 and query.shape[2] <= FEW and query.dtype == torch.float32
    return few and layer.softcap is None and start + query.shape[2] <= TABLE_REACH


def suffix_rows(
    layer: Layer,
    cut: Cut,
    cached: Cached,
    fresh: tuple[Tensor, Tensor, Tensor],
    places: tuple[int, int],
    explanation: Explanation | None = None,
) -> Tensor:
    """Cache suffix tokens, and return what they read; the contract of `pine.suffix_rows`.

    places  positions of the first suffix token, and of the first one here
    """
    query, key, value = (each.contiguous() for each in fresh)
    (_, heads, rows, dim), (end, start) = query.shape, places
    before, raw = cached.outside.length, cached.raw
    outside_keys, outside_values = cached.outside.extend(rows, key, value)
    table, pairs, width = NO_TABLE, NO_PAIRS, 0
    if layer.geometry is not None:
        table, pairs = layer.geometry.table(start + rows), layer.geometry.pairs
        width = layer.geometry.width
    assert table.dtype == torch.float32
    documents, pieces = len(cut.lengths), cut.pieces(before + rows)
    output, weight = torch.empty_like(query), query.new_empty((1, heads, rows, documents))
    task = SuffixTask(
        query=query.data_ptr(),
        key=key.data_ptr(),
        value=value.data_ptr(),
        raw=raw.data_ptr(),
        framed=cached.framed.data_ptr(),
        values=cached.values.data_ptr(),
        outside_keys=outside_keys.data_ptr(),
        outside_values=outside_values.data_ptr(),
        pieces=pieces.data_ptr(),
        lengths=cut.lengths.data_ptr(),
        table=table.data_ptr(),
        pairs=pairs.data_ptr(),
        output=output.data_ptr(),
        weight=weight.data_ptr(),
        heads=heads,
        kv_heads=raw.shape[1],
        rows=rows,
        dim=dim,
        width=width,
        slots=raw.shape[2],
        room=outside_keys.shape[2],
        documents=documents,
        inside=cut.inside,
        count=len(pieces),
        end=end,
        start=start,
        before=before,
        positions=len(table),
        scaling=layer.scaling,
    )
    scratch = query.new_empty(task.needed)
    task.scratch = scratch.data_ptr()
    read_suffix(task)
    if explanation is not None:
        explanation.add(weight)
    return output
