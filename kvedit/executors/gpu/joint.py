"""Spans that rank each other jointly and read each other, beside what stands still: one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kvedit.executors.gpu import launch, reading_kernels
from kvedit.executors.gpu.records import Records, aligned, alike, in_rows
from kvedit.executors.gpu.tiling import Tile, Tiling, power_of_two
from kvedit.executors.gpu.weighing import ranked_jointly
from kvedit.reading import Layer
from kvedit.rotary import TABLE_REACH
from kvedit.sight import Ranked, Sight


def read(
    layer: Layer, tiling: Tiling, query: Tensor, standing: Sequence[Sight], asked: Ranked
) -> Tensor:
    """Return what the tokens of all spans of a set read.

    query     [batch, heads, tokens, dim]  not rotated, spans one after the other
    standing  what all see whole, where it is
    returns   [batch, heads, tokens, dim]
    """
    (batch, heads, _, dim), spans, sizes = query.shape, asked.spans, tiling.sizes
    framed, values = spans.framed, spans.values
    assert in_rows(framed) and alike(framed, values), "one stride is for both"
    appears = ranked_jointly(layer, query, asked, tiling)
    # each row of a span is as far from what stands as if it stood at the end, less the span's rest
    seen = Records.of(standing, asked.end, query[:, :, :1])
    far = layer.geometry is not None and (seen.far or asked.end >= TABLE_REACH)
    whole = seen.aligned and aligned(framed) and aligned(values)
    tile = Tile.of(query, max(sizes), sum(sizes) // len(sizes))
    tiles, output = tiling.tiles(tile.rows), torch.empty_like(query)
    launch.run(
        reading_kernels.read_jointly, (tiles.shape[1], heads, batch), tile,
        query, framed, values, seen.table, appears, launch.inv_freq(layer, appears), output,
        tiling.first_slot, tiling.first_token, tiling.lengths, *tiles, *launch.scale(layer),
        asked.end, len(seen.table), len(sizes), heads // framed.shape[1], query.stride()[:3],
        framed.stride()[:2], output.stride()[:3], dim, power_of_two(dim), *launch.pairs(layer),
        layer.softcap is not None, far, whole, launch.interpreted(), tile.rows, tile.keys,
    )  # fmt: skip
    return output
