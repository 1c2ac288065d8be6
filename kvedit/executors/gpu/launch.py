"""PINE's rows through the kernels: the same contract as the torch path's, tensors on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from math import e, log2
from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from kvedit.reading import Layer
from kvedit.state import State
from pine.cache import Cached
from pine.explanation import Explanation
from pine.gpu import device
from pine.gpu.plan import PIECE, Plan, Tile, power_of_two
from pine.order import nearest_first, starts

LOG2_E = log2(e)
PROGRAMS = 512  # of a launch: splits are made up to about this number, so that few rows fill a GPU


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """What is read; the last dimension of everything is contiguous.

    raw, framed, values            [batch, kv_heads, slots, dim] of the documents, equal strides:
                                   not rotated, and rotated in their document's frame
    outside_keys, outside_values   [batch, kv_heads, kv, dim] of prefix and suffix, equal strides,
                                   rotated for position 0 at the first
    """

    raw: Tensor
    framed: Tensor
    values: Tensor
    outside_keys: Tensor
    outside_values: Tensor

    @classmethod
    def of(cls, cached: Cached) -> Keys:
        """Take what one layer has cached, as it lies."""
        outside, framed = cached.outside, cached.framed.flatten(2, 3)
        return cls(cached.raw, framed, cached.values, outside.keys, outside.values)

    def __post_init__(self) -> None:
        assert _alike(self.raw, self.framed) and _alike(self.framed, self.values)
        assert _alike(self.outside_keys, self.outside_values)
        assert self.raw.stride(-1) == self.outside_keys.stride(-1) == 1


def document_rows(layer: Layer, plan: Plan, keys: Keys, query: Tensor) -> Tensor:
    """Return what all document tokens read.

    query    [batch, heads, tokens, dim]  not rotated, documents one after the other
    returns  [batch, heads, tokens, dim]
    """
    return read_documents(layer, plan, keys, query, appearance(layer, plan, keys, query))


def appearance(layer: Layer, plan: Plan, keys: Keys, query: Tensor) -> Tensor:
    """Return where each document starts for each query document (PINE, section 3.3).

    query    [batch, heads, tokens, dim]  not rotated
    returns  [batch, heads, asking, documents] int32; the asking document itself is nearest
    """
    batch, heads, tokens, _ = query.shape
    documents = len(plan.sizes)
    weight = query.new_empty((batch, heads, documents, documents), dtype=torch.float32)
    if documents > 2:
        logs = document_logs(layer, plan, keys, query)
        width = power_of_two(documents)
        rows = max(1, 4096 // width)
        _run(
            device.document_importance, (documents, batch * heads), Tile(rows, width, 4, 1),
            logs, weight, plan.first_token, plan.lengths, tokens, documents, rows, width,
        )  # fmt: skip
    else:  # with two there is one other, and nothing to sort
        weight.zero_().diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    return starts(nearest_first(weight), plan.lengths, plan.end).int()


def document_logs(layer: Layer, plan: Plan, keys: Keys, query: Tensor) -> Tensor:
    """Return the natural log of each document's weight for each query, without positions.

    query    [batch, heads, query, dim]  not rotated
    returns  [batch, heads, query, documents] float32: a softmax over documents gives their shares
    """
    batch, heads, length, dim = query.shape
    kv_heads, documents = keys.raw.shape[1], len(plan.sizes)
    group = heads // kv_heads
    logs = query.new_empty((batch, heads, length, documents), dtype=torch.float32)
    tile = Tile.of(query, group * length, sum(plan.sizes) // documents)
    tiles = triton.cdiv(group * length, tile.rows)
    chunks = min(documents, triton.cdiv(PROGRAMS, tiles * batch * kv_heads))
    per_program = triton.cdiv(documents, chunks)
    scale, cap = _scale(layer)
    _run(
        device.document_logs, (tiles, triton.cdiv(documents, per_program), batch * kv_heads), tile,
        query, keys.raw, logs, plan.first_slot, plan.lengths, scale, cap, length, documents,
        per_program, group, kv_heads, query.stride()[:3], keys.raw.stride()[:3],
        dim, power_of_two(dim), layer.softcap is not None, interpreted(), tile.rows, tile.keys,
    )  # fmt: skip
    return logs


def read_documents(layer: Layer, plan: Plan, keys: Keys, query: Tensor, appears: Tensor) -> Tensor:
    """Return what document tokens read where documents start for each query document.

    query    [batch, heads, tokens, dim]  not rotated
    appears  [batch, heads, asking, documents] int32 tokens, contiguous
    returns  [batch, heads, tokens, dim]
    """
    batch, heads, _, dim = query.shape
    output, tile = torch.empty_like(query), plan.tile
    scale, cap = _scale(layer)
    _run(
        device.document_rows, (len(plan.tile_document), heads, batch), tile,
        query, keys.framed, keys.values, keys.outside_keys, keys.outside_values, appears,
        _inv_freq(layer, appears), output, plan.first_slot, plan.first_token, plan.lengths,
        plan.tile_document, plan.tile_first, scale, cap, plan.prefix, plan.end, len(plan.sizes),
        heads // keys.framed.shape[1], query.stride()[:3], keys.framed.stride()[:3],
        keys.outside_keys.stride()[:3], output.stride()[:3], dim, power_of_two(dim),
        *_pairs(layer), layer.softcap is not None, interpreted(), tile.rows, tile.keys,
    )  # fmt: skip
    return output


def suffix_rows(
    layer: Layer,
    plan: Plan,
    keys: Keys,
    query: Tensor,
    start: int,
    explanation: Explanation | None = None,
) -> Tensor:
    """Return what the last tokens of the outside read: suffix tokens, in prefill and decode.

    query        [batch, heads, query, dim]  not rotated
    start        position of the first one
    explanation  is told of every row's importance, or None
    returns      [batch, heads, query, dim]
    """
    if not query.shape[2]:
        return torch.empty_like(query)
    shares = document_logs(layer, plan, keys, query).softmax(-1) / plan.lengths
    if explanation is not None:
        explanation.add(shares)
    appears = starts(nearest_first(shares), plan.lengths, plan.end).int()
    parts = read_suffix(layer, plan, keys, query, (appears, start))
    shares = parts.weight_log.softmax(-1)[..., None]
    return (parts.output * shares).sum(-2).to(query.dtype)


def read_suffix(
    layer: Layer, plan: Plan, keys: Keys, query: Tensor, place: tuple[Tensor, int]
) -> State:
    """Return one state for each part of what suffix tokens see, to be merged.

    query    [batch, heads, query, dim]  not rotated
    place    where documents start, [batch, heads, query, documents] int32 tokens, contiguous, and
             the position of the first query
    returns  output [batch, heads, query, splits, dim], weight_log [batch, heads, query, splits]
    """
    (batch, heads, length, dim), (appears, start) = query.shape, place
    kv_heads, outside = keys.framed.shape[1], keys.outside_keys.shape[2]
    group, of_documents = heads // kv_heads, len(plan.piece_document)
    tile = Tile.of(query, group * length, min(PIECE, sum(plan.sizes) // len(plan.sizes)))
    tiles = triton.cdiv(group * length, tile.rows)
    pieces = of_documents + triton.cdiv(outside, PIECE)
    splits = min(pieces, triton.cdiv(PROGRAMS, tiles * batch * kv_heads))
    per_split = triton.cdiv(pieces, splits)
    splits = triton.cdiv(pieces, per_split)
    output = query.new_empty((batch, heads, length, splits, dim), dtype=torch.float32)
    logs = output.new_empty((batch, heads, length, splits))
    scale, cap = _scale(layer)
    _run(
        device.suffix_rows, (tiles, splits, batch * kv_heads), tile,
        query, keys.framed, keys.values, keys.outside_keys, keys.outside_values, appears,
        _inv_freq(layer, appears), output, logs, plan.piece_document, plan.piece_first,
        plan.piece_count, scale, cap, length, start, outside, len(plan.sizes), of_documents, pieces,
        per_split, group, kv_heads, query.stride()[:3], keys.framed.stride()[:3],
        keys.outside_keys.stride()[:3], dim, power_of_two(dim), *_pairs(layer),
        layer.softcap is not None, interpreted(), tile.rows, tile.keys, PIECE,
    )  # fmt: skip
    return State(output, logs)


def interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape lie alike; how far apart a single row is, is free."""
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return one.shape == other.shape and all(n < 2 or a == b for n, a, b in strides)


def _run(kernel: Any, grid: tuple[int, ...], tile: Tile, query: Tensor, *arguments: Any) -> None:
    """Launch a kernel on the query's device; products fuse with sums whatever Triton's default."""
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        kernel[grid](
            query,
            *arguments,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,
        )


def _scale(layer: Layer) -> tuple[float, float]:
    """Return the factor on a product and the cap in base 2; see `tiles.bounded`."""
    if layer.softcap is None:
        return layer.scaling * LOG2_E, 0.0
    return layer.scaling / layer.softcap, layer.softcap * LOG2_E


def _pairs(layer: Layer) -> tuple[int, bool]:
    """Return how many rotary pairs turn, and whether they are interleaved."""
    if layer.geometry is None:
        return 0, False
    return layer.geometry.inv_freq.shape[-1], layer.geometry.layout == "interleaved"


def _inv_freq(layer: Layer, unread: Tensor) -> Tensor:
    """Return the frequencies, or for a layer without positions any tensor: it is not read."""
    return unread if layer.geometry is None else layer.geometry.inv_freq
