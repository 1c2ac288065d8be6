"""What suffix tokens read, in prefill and decode: each one sorts the documents for itself.

This runs once a layer and token where neither loops nor kernels decode, so it counts calls: what
turns several times has its partner taken once, and angles come from a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.plain import causal
from kvedit.reading import Layer
from kvedit.state import capped
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
    fresh: tuple[Tensor, Tensor, Tensor],
    start: int,
    explanation: Explanation | None = None,
) -> Tensor:
    """Cache consecutive suffix tokens, and return what they read.

    fresh        their queries, keys and values as in `kvedit.reading.Reading.read`
    start        position of the first one
    explanation  is told of every row's importance, or None
    returns      [batch, heads, query, dim]
    """
    query, key, value = fresh
    if layout.cut is not None:
        from pine.cpu import suffix_rows as compiled  # numba is there where a cut is

        if compiled.fits(layer, query, start):
            places = (layout.end, start)
            return compiled.suffix_rows(layer, layout.cut, cached, fresh, places, explanation)
    if layer.geometry is not None:
        key = layer.geometry.rotate(key, layer.geometry.between(start, start + key.shape[2]))
    cached.outside.append(key, value)
    if layout.plan is not None:
        from pine.gpu import launch  # triton is there where a plan is

        keys = launch.Keys.of(cached)
        return launch.suffix_rows(layer, layout.plan, keys, query, start, explanation)
    turned = len(layout.pages.owner) * query.shape[-1]
    per_row = query.shape[1] * (layout.pages.slots + turned + cached.outside.length)
    blocks = [
        _block(layer, layout, cached, query[:, :, rows], start + rows.start, explanation)
        for rows in row_blocks(query.shape[2], per_row)
    ]
    if len(blocks) == 1:
        return blocks[0]
    return torch.cat(blocks, 2) if blocks else torch.empty_like(query)


def _block(
    layer: Layer,
    layout: Layout,
    cached: Cached,
    query: Tensor,
    start: int,
    explanation: Explanation | None,
) -> Tensor:
    pages, outside, end = layout.pages, cached.outside, start + query.shape[2]
    asking = _Asking.of(layer, query, cached.raw)
    weight = importance(hide_padding(asking.scores(asking.wide, cached.raw), pages), pages)
    if explanation is not None:
        explanation.add(weight)
    appears = starts(nearest_first(weight), pages.lengths, layout.end)
    near = asking.page_scores(cached.framed, pages.per_page(_distance(appears, start)), end)
    far = asking.scores(asking.turned(start), outside.keys)
    first = start - layout.end + layout.prefix  # the block's first row among the outside keys
    if outside.length > first + 1:
        place = torch.arange(outside.length, device=query.device)
        far.masked_fill_(~causal(place[first : first + end - start], place), -torch.inf)
    weights = torch.softmax(torch.cat([hide_padding(near, pages), far], -1), -1)
    return asking.weigh(weights, cached.values, outside.values).to(query.dtype)


def _distance(appears: Tensor, start: int) -> Tensor:
    """Return how far each document's start is from each row: [batch, heads, query, documents]."""
    if appears.shape[2] == 1:
        return start - appears
    return torch.arange(start, start + appears.shape[2], device=appears.device)[:, None] - appears


@dataclass(frozen=True, slots=True, eq=False)
class _Asking:
    """The queries of a block, in float32 and scaled, with the heads of a group next to each other.

    wide     [batch, heads, query, dim]   not rotated
    partner  [batch, heads, query, width] what `wide` turns with, or None without positions
    grouped  (batch, kv_heads, group * query)
    """

    layer: Layer
    wide: Tensor
    partner: Tensor | None
    grouped: tuple[int, int, int]

    @classmethod
    def of(cls, layer: Layer, query: Tensor, key: Tensor) -> _Asking:
        """Prepare queries for keys, [batch, kv_heads, kv, dim]."""
        precise = torch.promote_types(query.dtype, torch.float32)
        wide = query.to(precise) * layer.scaling
        partner = None if layer.geometry is None else layer.geometry.partner(wide)
        batch, heads, length, _ = query.shape
        grouped = (batch, key.shape[1], heads // key.shape[1] * length)
        return cls(layer, wide, partner, grouped)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Return capped scores of `wide` or of a turned form of it: [batch, heads, query, kv]."""
        product = query.reshape(*self.grouped, -1) @ key.to(query.dtype).transpose(-1, -2)
        return capped(product, self.layer.softcap).view(*query.shape[:3], -1)

    def turned(self, start: int) -> Tensor:
        """Return the queries turned to their own positions, consecutive from `start`."""
        geometry = self.layer.geometry
        if geometry is None:
            return self.wide
        phases = geometry.between(start, start + self.wide.shape[2])
        return geometry.rotate(self.wide, phases, self.partner)

    def page_scores(self, framed: Tensor, distance: Tensor, reach: int) -> Tensor:
        """Return the scores of all pages: a query is turned once per page.

        framed    [batch, kv_heads, pages, length, dim]
        distance  [batch, heads, query, pages] tokens, 0 to below `reach`, from the start of the
                  page's document to the query
        returns   [batch, heads, query, slots]
        """
        batch, kv_heads, rows = self.grouped
        pages = framed.shape[2]
        turned = self.wide[..., None, :]
        if self.layer.geometry is not None and self.partner is not None:
            phases = self.layer.geometry.looked_up(distance, reach)
            turned = self.layer.geometry.rotate(turned, phases, self.partner[..., None, :])
        paged = turned.expand(*self.wide.shape[:3], pages, -1)
        paged = paged.reshape(batch, kv_heads, rows, pages, -1).transpose(2, 3)
        product = paged @ framed.to(paged.dtype).transpose(-1, -2)
        capped(product, self.layer.softcap)
        return product.transpose(2, 3).reshape(*self.wide.shape[:3], -1)

    def weigh(self, weights: Tensor, near: Tensor, far: Tensor) -> Tensor:
        """Sum values by weights.

        weights    [batch, heads, query, slots + outside]
        near, far  [batch, kv_heads, slots or outside, dim]
        returns    [batch, heads, query, dim]
        """
        grouped, slots = weights.view(*self.grouped, -1), near.shape[2]
        read: Tensor = grouped[..., :slots] @ near.to(weights.dtype)
        read += grouped[..., slots:] @ far.to(weights.dtype)
        return read.view_as(self.wide)
