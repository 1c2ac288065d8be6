"""What document tokens read: PINE's bidirectional attention between documents.

For one query document and head every other document stands at one constant distance, since its keys
move together. So key blocks are turned by that constant, and one masked attention reads them all.
Small documents are read many at a time, large ones a few rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.plain import causal
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.state import capped
from pine.blocks import head_blocks, row_blocks
from pine.cache import Cached, Layout
from pine.groups import BUDGET, ROWS, Group, groups
from pine.importance import importance_to_document
from pine.order import nearest_first, starts
from pine.pages import hide_padding


def document_rows(layer: Layer, layout: Layout, cached: Cached, query: Tensor) -> Tensor:
    """Return what all document tokens read.

    query    [batch, heads, tokens, dim]  not rotated, documents one after the other
    returns  [batch, heads, tokens, dim]
    """
    if layout.plan is not None:
        from pine.gpu import launch  # triton is there where a plan is

        return launch.document_rows(layer, layout.plan, launch.Keys.of(cached), query)
    if layout.cut is not None:
        from pine.cpu import document_rows as compiled  # numba is there where a cut is

        return compiled.document_rows(layer, layout, layout.cut, cached, query)
    output = torch.empty_like(query)
    wide = query.to(torch.promote_types(query.dtype, torch.float32)) * layer.scaling
    turned = turn(layer.geometry, wide, layout.nearest)
    for row in range(query.shape[0]):
        blocks = _Blocks.of(layer, layout, cached, row, query.shape[1])
        for group in groups(layout, blocks.values.numel() * blocks.group):
            asking = (group.gather(each[row]) for each in (wide, turned))
            output[row, :, group.tokens] = group.scatter(blocks.read(group, *asking))
    return output


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Prefix and documents of one layer and batch row, in float32 at least.

    group    query heads per key-value head
    raw      [kv_heads, slots, dim]            document keys, not rotated
    prefix   [kv_heads, 1, 1, prefix, dim]     keys where they are
    framed   [kv_heads, 1, 1, pages, length, dim]
    values   [kv_heads, prefix + slots, dim]
    """

    layer: Layer
    layout: Layout
    group: int
    raw: Tensor
    prefix: Tensor
    framed: Tensor
    values: Tensor

    @classmethod
    def of(cls, layer: Layer, layout: Layout, cached: Cached, row: int, heads: int) -> _Blocks:
        """Take one batch row of what the layer has cached."""
        precise = torch.promote_types(cached.raw.dtype, torch.float32)
        outside = slice(0, layout.prefix)
        values = [cached.outside.values[row, :, outside], cached.values[row]]
        return cls(
            layer,
            layout,
            heads // cached.raw.shape[1],
            cached.raw[row].to(precise),
            cached.outside.keys[row, :, None, None, outside].to(precise),
            cached.framed[row, :, None, None].to(precise),
            torch.cat(values, 1).to(precise),
        )

    def read(self, group: Group, query: Tensor, turned: Tensor) -> Tensor:
        """Return what the documents of a group read.

        query    [heads, asking, longest, dim]  scaled, not rotated
        turned   [heads, asking, longest, dim]  scaled, where they are in the nearest document
        returns  [heads, asking, longest, dim]
        """
        appears = self._appearance(group, query)
        output = torch.empty_like(query)
        _, asking, longest, dim = query.shape
        per_head = self.group * asking * self.values.shape[1]
        held = per_head * max(dim, min(longest, ROWS))
        for kv_heads, heads in head_blocks(len(self.raw), self.group, held, BUDGET):
            keys = self._keys(kv_heads, appears[heads])
            for rows in row_blocks(longest, len(keys) * asking * keys.shape[2], BUDGET):
                asked = turned[heads, :, rows]
                output[heads, :, rows] = self._attend(group, kv_heads, asked, keys, rows)
        return output

    def _attend(
        self, group: Group, kv_heads: slice, query: Tensor, keys: Tensor, rows: slice
    ) -> Tensor:
        """Return what some rows of each document of a group read.

        query    [heads, asking, rows, dim]
        keys     [heads, asking, prefix + slots, dim]
        returns  [heads, asking, rows, dim]
        """
        pages, prefix = self.layout.pages, self.layout.prefix
        product = capped(query @ keys.transpose(-1, -2), self.layer.softcap)
        hide_padding(product[..., prefix:], pages)
        token = torch.arange(rows.start, rows.stop, device=query.device)
        for place, document in enumerate(group.documents):
            bounds = pages.bounds[document]
            own = product[:, place, :, prefix:][..., bounds]
            own.masked_fill_(~causal(token, pages.place[bounds]), -torch.inf)
        weights, values = product.softmax(-1), self.values[kv_heads]
        return (weights.view(len(values), -1, product.shape[-1]) @ values).view(query.shape)

    def _keys(self, kv_heads: slice, appears: Tensor) -> Tensor:
        """Turn the document keys of some heads to where they appear for each query document.

        appears  [heads, asking, documents]
        returns  [heads, asking, prefix + slots, dim]
        """
        pages, framed, geometry = self.layout.pages, self.framed[kv_heads], self.layer.geometry
        places = pages.per_page(appears).view(len(framed), self.group, appears.shape[1], -1)
        inside = framed.expand(*places.shape, *framed.shape[-2:])
        if geometry is not None:
            phases = geometry.looked_up(places[..., None], self.layout.end)
            inside = geometry.rotate(framed, phases)
        prefix = self.prefix[kv_heads].expand(*places.shape[:3], -1, -1)
        return torch.cat((prefix, inside.flatten(3, 4)), 3).flatten(0, 1)

    def _appearance(self, group: Group, query: Tensor) -> Tensor:
        """Return where each document starts for each query document of a group.

        query    [heads, asking, longest, dim]   not rotated
        returns  [heads, asking, documents] int64; the asking document itself is nearest
        """
        pages, (_, asking, longest, _) = self.layout.pages, query.shape
        weight = self.raw.new_zeros((*query.shape[:2], len(pages.lengths)))
        if len(pages.lengths) > 2:  # with two there is one other, and nothing to sort
            per_head = self.group * asking * pages.slots
            held = per_head * min(longest, ROWS)
            for kv_heads, heads in head_blocks(len(self.raw), self.group, held, BUDGET):
                raw = self.raw[kv_heads]
                for rows in row_blocks(longest, len(raw) * per_head, BUDGET):
                    weight[heads] += self._importance(group, query[heads, :, rows], raw, rows)
        weight[:, torch.arange(asking), list(group.documents)] = torch.inf
        return starts(nearest_first(weight), pages.lengths, self.layout.end)

    def _importance(self, group: Group, query: Tensor, raw: Tensor, rows: slice) -> Tensor:
        """Return how important each document is to some rows of each query document.

        query    [heads, asking, rows, dim]
        raw      [kv_heads, slots, dim]
        returns  [heads, asking, documents], 0 for the query document itself
        """
        pages, (heads, asking, length, dim) = self.layout.pages, query.shape
        product = query.reshape(len(raw), -1, dim) @ raw.transpose(1, 2)
        product = capped(product, self.layer.softcap).view(heads, asking, length, -1)
        hide_padding(product, pages)
        for place, document in enumerate(group.documents):
            product[:, place, :, pages.bounds[document]] = -torch.inf
        return importance_to_document(product, pages, None if group.even else group.real[:, rows])
