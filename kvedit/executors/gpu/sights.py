"""Rows that look at any list of sights: one launch reads all of them, split over many programs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from kvedit.executors.gpu import launch, reading_kernels, tiling
from kvedit.executors.gpu.records import Placed, Records
from kvedit.executors.gpu.tiling import Tile, power_of_two
from kvedit.reading import Layer
from kvedit.sight import Sight
from kvedit.state import State


def read(layer: Layer, query: Tensor, place: int, sights: Sequence[Sight | Placed]) -> Tensor:
    """Return what rows read that stand from `place` on.

    query    [batch, heads, query, dim]  not rotated
    returns  [batch, heads, query, dim]
    """
    parts = states(layer, query, place, sights)
    if parts.weight_log.shape[-1] == 1:
        return parts.output.squeeze(3).to(query.dtype)
    shares = parts.weight_log.softmax(-1)[..., None]
    return (parts.output * shares).sum(3).to(query.dtype)


def states(layer: Layer, query: Tensor, place: int, sights: Sequence[Sight | Placed]) -> State:
    """Return a state for each part of what rows see, to be merged.

    query    [batch, heads, query, dim]  not rotated
    returns  output [batch, heads, query, splits, dim], weight_log [batch, heads, query, splits]
    """
    (batch, heads, length, dim), kv_heads = query.shape, _kv_heads(sights[0])
    seen, group = Records.of(sights, place, query), heads // kv_heads
    tile = Tile.of(query, group * length, min(tiling.PIECE, seen.tokens // seen.spans))
    tiles = triton.cdiv(group * length, tile.rows)
    splits = min(seen.pieces, triton.cdiv(launch.PROGRAMS, tiles * batch * kv_heads))
    per_split = triton.cdiv(seen.pieces, splits)
    splits = triton.cdiv(seen.pieces, per_split)
    output = query.new_empty((batch, heads, length, splits, dim), dtype=torch.float32)
    logs = output.new_empty((batch, heads, length, splits))
    far = layer.geometry is not None and seen.far
    launch.run(
        reading_kernels.read_sights, (tiles, splits, batch * kv_heads), tile,
        query, seen.table, launch.inv_freq(layer, output), output, logs, *launch.scale(layer),
        length, len(seen.table), seen.pieces, per_split, group, kv_heads, query.stride()[:3],
        power_of_two(len(seen.table)), dim, power_of_two(dim), *launch.pairs(layer),
        layer.softcap is not None, far, seen.aligned, launch.interpreted(), tile.rows, tile.keys,
        tiling.PIECE,
    )  # fmt: skip
    return State(output, logs)


def _kv_heads(sight: Sight | Placed) -> int:
    return (sight.span.keys if isinstance(sight, Sight) else sight.spans.raw).shape[1]
