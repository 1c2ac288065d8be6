"""How much spans weigh, positions left out, and where that lets them appear."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from kvedit.executors.gpu import launch, weighing_kernels
from kvedit.executors.gpu.tiling import Tile, Tiling, power_of_two
from kvedit.ranking import importance, nearest_first, starts
from kvedit.reading import Layer
from kvedit.sight import Ranked
from kvedit.spans import SpanSet

SHARES = 4096  # numbers that one program holds when it sums what spans give each other


def mass(layer: Layer, query: Tensor, spans: SpanSet, tiling: Tiling) -> Tensor:
    """Return the natural log of each span's weight (see `kvedit.executors.Executor`)."""
    (batch, heads, length, dim), (_, kv_heads, _, _) = query.shape, spans.raw.shape
    sizes, group = tiling.sizes, heads // kv_heads
    logs = query.new_empty((batch, heads, length, len(sizes)), dtype=torch.float32)
    tile = Tile.of(query, group * length, sum(sizes) // len(sizes))
    tiles = triton.cdiv(group * length, tile.rows)
    chunks = min(len(sizes), triton.cdiv(launch.PROGRAMS, tiles * batch * kv_heads))
    per_program = triton.cdiv(len(sizes), chunks)
    launch.run(
        weighing_kernels.weigh,
        (tiles, triton.cdiv(len(sizes), per_program), batch * kv_heads), tile,
        query, spans.raw, logs, tiling.first_slot, tiling.lengths, *launch.scale(layer), length,
        len(sizes), per_program, group, kv_heads, query.stride()[:3], spans.raw.stride()[:2], dim,
        power_of_two(dim), layer.softcap is not None, launch.interpreted(), tile.rows, tile.keys,
    )  # fmt: skip
    return logs


def ranked_apart(layer: Layer, query: Tensor, sight: Ranked, tiling: Tiling) -> Tensor:
    """Return where spans start for rows that rank each for itself: [..., query, spans] int64."""
    weight = importance(mass(layer, query, sight.spans, tiling), sight.spans.pages.lengths)
    if sight.told is not None:
        sight.told(weight)
    return starts(nearest_first(weight), sight.spans.pages.lengths, sight.end)


def ranked_jointly(layer: Layer, query: Tensor, sight: Ranked, tiling: Tiling) -> Tensor:
    """Return where spans start for the rows of each span: [batch, heads, asking, spans] int64.

    query  [batch, heads, tokens, dim] of all spans, not rotated

    The asking span itself is nearest.
    """
    (batch, heads, tokens, _), spans = query.shape, len(tiling.sizes)
    weight = query.new_empty((batch, heads, spans, spans), dtype=torch.float32)
    if spans > 2:
        width = power_of_two(spans)
        rows = max(1, SHARES // width)
        launch.run(
            weighing_kernels.add_shares, (spans, batch * heads), Tile(rows, width, 4, 1),
            mass(layer, query, sight.spans, tiling), weight, tiling.first_token, tiling.lengths,
            tokens, spans, rows, width,
        )  # fmt: skip
    else:  # with two there is one other, and nothing to sort
        weight.zero_().diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    return starts(nearest_first(weight), sight.spans.pages.lengths, sight.end)
