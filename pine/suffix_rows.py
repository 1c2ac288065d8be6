"""What suffix tokens read, in prefill and decode: each one sorts the documents for itself."""

from __future__ import annotations

import torch
from torch import Tensor

from kvedit.plain import causal
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.state import capped, scores, weigh
from pine.blocks import row_blocks
from pine.cache import Cached, Layout
from pine.explanation import Explanation
from pine.importance import importance
from pine.order import nearest_first, starts
from pine.pages import hide_padding


def suffix_rows(
    layer: Layer,
    layout: Layout,
    cached: Cached,
    query: Tensor,
    start: int,
    explanation: Explanation | None = None,
) -> Tensor:
    """Return what consecutive suffix tokens read; their keys are cached already.

    query        [batch, heads, query, dim]  not rotated
    start        position of the first one
    explanation  is told of every row's importance, or None
    returns      [batch, heads, query, dim]
    """
    if layout.plan is not None:
        from pine.kernels import launch  # triton is there where a plan is

        keys = launch.Keys.of(cached)
        return launch.suffix_rows(layer, layout.plan, keys, query, start, explanation)
    turned = len(layout.pages.owner) * query.shape[-1]
    per_row = query.shape[1] * (layout.pages.slots + turned + cached.outside.length)
    blocks = [
        _block(layer, layout, cached, query[:, :, rows], start + rows.start, explanation)
        for rows in row_blocks(query.shape[2], per_row)
    ]
    return torch.cat(blocks, 2) if blocks else torch.empty_like(query)


def _block(
    layer: Layer,
    layout: Layout,
    cached: Cached,
    query: Tensor,
    start: int,
    explanation: Explanation | None,
) -> Tensor:
    pages, outside = layout.pages, cached.outside
    positions = torch.arange(start, start + query.shape[2], device=query.device)
    product = scores(query, cached.raw, layer.scaling, layer.softcap)
    weight = importance(hide_padding(product, pages), pages)
    if explanation is not None:
        explanation.add(weight)
    distance = positions[:, None] - starts(nearest_first(weight), pages.lengths, layout.end)
    near = _page_scores(layer, cached, query, pages.per_page(distance))
    turned = turn(layer.geometry, query, positions)
    far = scores(turned, outside.keys, layer.scaling, layer.softcap)
    first = start - layout.end + layout.prefix  # the block's first row among the outside keys
    if outside.length > first + 1:
        place = torch.arange(outside.length, device=query.device)
        far.masked_fill_(~causal(place[first : first + len(positions)], place), -torch.inf)
    weights = torch.softmax(torch.cat([hide_padding(near, pages), far], -1), -1)
    read = weigh(weights[..., : pages.slots], cached.values)
    read += weigh(weights[..., pages.slots :], outside.values)
    return read.to(query.dtype)


def _page_scores(layer: Layer, cached: Cached, query: Tensor, distance: Tensor) -> Tensor:
    """Return the scores of suffix queries and all pages: a query is turned once per page.

    query     [batch, heads, query, dim]    not rotated
    distance  [batch, heads, query, pages]  tokens from the page's document's start to the query
    returns   [batch, heads, query, slots] float32
    """
    batch, heads, length, dim = query.shape
    kv_heads, pages = cached.framed.shape[1:3]
    precise = torch.promote_types(query.dtype, torch.float32)
    wide = query.to(precise) * layer.scaling
    turned = turn(layer.geometry, wide[..., None, :], distance)
    turned = turned.expand(batch, heads, length, pages, dim)
    grouped = turned.reshape(batch, kv_heads, heads // kv_heads * length, pages, dim)
    product = grouped.transpose(2, 3) @ cached.framed.to(precise).transpose(-1, -2)
    return capped(product, layer.softcap).transpose(2, 3).reshape(batch, heads, length, -1)
