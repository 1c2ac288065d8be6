"""What document tokens read: products of matrices by torch, compiled loops between them.

Keys are turned to where they appear for some query documents, multiplied with all their rows, and
softened in place; what is held between two products stays near the cache. A long document asks
alone, and its own keys come last: so what lies ahead of a block of rows is not read at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.state import capped
from pine.blocks import head_blocks, row_blocks
from pine.cache import Cached, Layout
from pine.cpu import loops
from pine.cpu.cut import Cut
from pine.groups import BUDGET, ROWS, Group, groups
from pine.order import nearest_first, starts

TRIM = 256  # tokens: what lies ahead in a longer document is left out


def document_rows(layer: Layer, layout: Layout, cut: Cut, cached: Cached, query: Tensor) -> Tensor:
    """Return what all document tokens read; the contract of `pine.document_rows`."""
    output = torch.empty_like(query)
    wide = query.to(torch.float32) * layer.scaling
    turned = turn(layer.geometry, wide, layout.nearest, layout.end)
    for row in range(query.shape[0]):
        blocks = _Blocks.of(layer, layout, cut, cached, row, query.shape[1])
        for group in groups(layout, blocks.values.numel() * blocks.group):
            asking = (group.gather(each[row]) for each in (wide, turned))
            output[row, :, group.tokens] = group.scatter(blocks.read(group, *asking))
    return output


class Scratch:
    """Buffers that the steps of one layer use in turn: fresh memory costs as much as filling it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of undefined content; the next of its name takes its memory."""
        size = math.prod(shape)
        held = self._buffers.get(name)
        if held is None or len(held) < size:
            held = self._buffers[name] = torch.empty(size)
        return held[:size].view(shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Where documents lie among the keys of a group.

    targets  [documents] first slot of each, the prefix counted
    own      [asking, 2] where each query document's slots begin and end
    gaps     [gaps, 2] where padding begins and ends
    trims    whether the one query document comes last, so that its rows can be cut short
    """

    targets: Tensor
    own: Tensor
    gaps: Tensor
    trims: bool

    @classmethod
    def of(cls, layout: Layout, cut: Cut, group: Group) -> _Order:
        """Leave documents where they are, or put a long one that asks alone behind the others."""
        asking, trims = group.documents, len(group.documents) == 1 and group.row.shape[1] > TRIM
        sizes, targets = cut.begins.diff(), cut.begins[:-1] + layout.prefix
        if trims:
            targets = targets.clone()
            targets[asking.stop :] -= sizes[asking.start]
            targets[asking.start] = layout.prefix + layout.pages.slots - sizes[asking.start]
        ends = targets + sizes
        own = torch.stack((targets, ends), 1)[asking.start : asking.stop]
        gaps = torch.empty(0, 2, dtype=torch.int64)
        if layout.pages.filled is not None:
            gaps = torch.stack((targets + cut.lengths, ends), 1)
        return cls(targets, own.contiguous(), gaps, trims)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Prefix and documents of one layer and batch row, in float32 and contiguous.

    group    query heads per key-value head
    prefix   [kv_heads, prefix, dim]           keys where they are
    raw      [kv_heads, slots, dim]            document keys, not rotated
    framed   [kv_heads, slots, dim]            document keys, rotated in their document's frame
    partner  [kv_heads, slots, width]          what each dimension of `framed` turns with
    values   [kv_heads, prefix + slots, dim]
    """

    layer: Layer
    layout: Layout
    cut: Cut
    group: int
    prefix: Tensor
    raw: Tensor
    framed: Tensor
    partner: Tensor
    values: Tensor
    scratch: Scratch

    @classmethod
    def of(
        cls, layer: Layer, layout: Layout, cut: Cut, cached: Cached, row: int, heads: int
    ) -> _Blocks:
        """Take one batch row of what the layer has cached."""
        outside = slice(0, layout.prefix)
        prefix = cached.outside.keys[row, :, outside].float().contiguous()
        framed = cached.framed[row].flatten(1, 2).float()
        values = torch.cat([cached.outside.values[row, :, outside], cached.values[row]], 1)
        partner = framed[..., :0] if layer.geometry is None else layer.geometry.partner(framed)
        raw = cached.raw[row].float()
        group = heads // len(raw)
        return cls(
            layer, layout, cut, group, prefix, raw, framed, partner, values.float(), Scratch()
        )

    def read(self, group: Group, query: Tensor, turned: Tensor) -> Tensor:
        """Return what the documents of a group read.

        query    [heads, asking, longest, dim]  scaled, not rotated
        turned   [heads, asking, longest, dim]  scaled, where they are in the nearest document
        returns  [heads, asking, longest, dim]
        """
        appears, order = self._appearance(group, query), _Order.of(self.layout, self.cut, group)
        output, (_, asking, longest, dim) = torch.empty_like(query), query.shape
        slots = self.values.shape[1]
        per_head = self.group * asking * slots
        held = per_head * max(dim, min(longest, ROWS))
        for kv_heads, heads in head_blocks(len(self.raw), self.group, held, BUDGET):
            keys, values = self._keys(kv_heads, appears[heads], order), self.values[kv_heads]
            if order.trims:
                values = self._own_last(values, group.documents.start)
            per_row = len(keys) * asking * slots
            for rows in row_blocks(
                longest, max(per_row, BUDGET // TRIM if order.trims else 0), BUDGET
            ):
                seen = int(order.own[0, 0]) + rows.stop if order.trims else slots
                known = keys[:, :, :seen], values[:, :seen]
                output[heads, :, rows] = self._attend(order, rows, turned[heads, :, rows], *known)
        return output

    def _attend(
        self, order: _Order, rows: slice, query: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return what some rows of each document of a group read.

        query    [heads, asking, rows, dim]
        keys     [heads, asking, seen, dim]
        values   [kv_heads, seen, dim]
        returns  [heads, asking, rows, dim]
        """
        (heads, asking, count, _), seen = query.shape, keys.shape[2]
        product = self.scratch.take("scores", heads, asking, count, seen)
        factor = self.scratch.take("factor", heads, asking, count)
        flat = (query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
        torch.bmm(*flat, out=product.view(-1, count, seen))
        loops.weights(
            loops.WeightsTask(
                product=capped(product, self.layer.softcap).data_ptr(),
                factor=factor.data_ptr(),
                own=order.own.data_ptr(),
                gaps=order.gaps.data_ptr(),
                heads=heads,
                asking=asking,
                rows=count,
                slots=seen,
                gap_count=len(order.gaps),
                first=rows.start,
            )
        )
        read = torch.bmm(product.view(len(values), -1, seen), values).view(query.shape)
        return read.mul_(factor[..., None])

    def _keys(self, kv_heads: slice, appears: Tensor, order: _Order) -> Tensor:
        """Turn the document keys of some heads to where they appear for each query document.

        appears  [heads, asking, documents]
        returns  [heads, asking, prefix + slots, dim], in a buffer
        """
        prefix, framed, partner = self.prefix[kv_heads], self.framed[kv_heads], self.partner
        heads, asking, documents = appears.shape
        keys = self.scratch.take("keys", heads, asking, *self.values.shape[1:])
        places, table = appears, torch.empty(self.layout.end, 0)
        if self.layer.geometry is not None:
            places, table = self.layer.geometry.rows_at(appears, self.layout.end)
        assert table.dtype == torch.float32
        loops.turn_keys(
            loops.KeysTask(
                prefix=prefix.data_ptr(),
                framed=framed.data_ptr(),
                partner=partner[kv_heads].data_ptr(),
                table=table.data_ptr(),
                appears=places.data_ptr(),
                begins=self.cut.begins.data_ptr(),
                targets=order.targets.data_ptr(),
                keys=keys.data_ptr(),
                heads=heads,
                kv_heads=len(framed),
                asking=asking,
                before=prefix.shape[1],
                slots=framed.shape[1],
                dim=framed.shape[2],
                width=partner.shape[2],
                documents=documents,
                positions=len(table),
            )
        )
        return keys

    def _own_last(self, values: Tensor, document: int) -> Tensor:
        """Move the values of a document behind all others."""
        own = self.layout.pages.bounds[document]
        begin, end = self.layout.prefix + own.start, self.layout.prefix + own.stop
        if end == values.shape[1]:
            return values
        return torch.cat((values[:, :begin], values[:, end:], values[:, begin:end]), 1)

    def _appearance(self, group: Group, query: Tensor) -> Tensor:
        """Return where each document starts for each query document of a group.

        query    [heads, asking, longest, dim]   not rotated
        returns  [heads, asking, documents] int64; the asking document itself is nearest
        """
        pages, (_, asking, longest, _) = self.layout.pages, query.shape
        weight = torch.zeros((*query.shape[:2], len(pages.lengths)))
        if len(pages.lengths) > 2:  # with two there is one other, and nothing to sort
            per_head = self.group * asking * pages.slots
            held = per_head * min(longest, ROWS)
            for kv_heads, heads in head_blocks(len(self.raw), self.group, held, BUDGET):
                raw = self.raw[kv_heads]
                for rows in row_blocks(longest, len(raw) * per_head, BUDGET):
                    self._importance(group, query[heads, :, rows], raw, rows.start, weight[heads])
        weight[:, torch.arange(asking), list(group.documents)] = torch.inf
        return starts(nearest_first(weight), pages.lengths, self.layout.end)

    def _importance(
        self, group: Group, query: Tensor, raw: Tensor, first: int, weight: Tensor
    ) -> None:
        """Add how important each document is to some rows of each query document.

        query    [heads, asking, rows, dim]
        raw      [kv_heads, slots, dim]
        first    the first row
        weight   [heads, asking, documents]; but for the query documents' own
        """
        slots = raw.shape[1]
        product = self.scratch.take("scores", *query.shape[:3], slots)
        flat = product.view(len(raw), -1, slots)
        torch.bmm(query.reshape(*flat.shape[:2], -1), raw.transpose(1, 2), out=flat)
        loops.importance(
            loops.ImportanceTask(
                product=capped(product, self.layer.softcap).data_ptr(),
                begins=self.cut.begins.data_ptr(),
                lengths=self.cut.lengths.data_ptr(),
                weight=weight.data_ptr(),
                heads=len(query),
                asking=query.shape[1],
                rows=query.shape[2],
                slots=slots,
                documents=weight.shape[2],
                own=group.documents.start,
                first=first,
            )
        )
