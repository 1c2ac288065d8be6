"""Spans that read each other: products of matrices by torch, compiled loops between them.

All rows of a span see another one at one distance. So keys are turned once to where they appear for
some asking spans, multiplied with all their rows, and softened in place; what is held between two
products stays near the cache. A long span asks alone, and its own keys come last: so what lies
ahead of a block of rows is not read at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kvedit.executors.blocks import head_blocks, row_blocks
from kvedit.executors.cpu import groups, loops
from kvedit.executors.cpu.groups import ROWS, Group
from kvedit.executors.cpu.pieces import Cut
from kvedit.executors.runs import ranked
from kvedit.pages import Pages
from kvedit.ranking import nearest_first, starts
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import SpanSet
from kvedit.state import capped

TRIM = 256  # tokens: what lies ahead in a longer span is left out


def read(layer: Layer, cut: Cut, query: Tensor, rows: Rows) -> Tensor:
    """Return what the tokens of all spans of a set read.

    query    [batch, heads, tokens, dim]  not rotated, spans one after the other
    rows     of the first span
    returns  [batch, heads, tokens, dim]
    """
    output, asked = torch.empty_like(query), ranked(rows)
    before = [sight for sight in rows.sights if isinstance(sight, Sight) and sight.span.held]
    wide = query.to(torch.float32) * layer.scaling
    turned = turn(layer.geometry, wide, asked.end + cut.ahead, asked.end)
    for row in range(query.shape[0]):
        blocks = _Blocks.of(layer, cut, asked, before, row, query.shape[1])
        for group in _groups(blocks.pages, cut, blocks.values.numel() * blocks.group):
            asking = (group.gather(each[row]) for each in (wide, turned))
            output[row, :, group.tokens] = group.scatter(blocks.read(group, *asking))
    return output


def _groups(pages: Pages, cut: Cut, per_span: int) -> list[Group]:
    key = (per_span, groups.BUDGET)
    if key not in cut.groups:
        cut.groups[key] = groups.groups(pages.sizes, *key)
    return cut.groups[key]


class Scratch:
    """Buffers that the steps of one layer use in turn: fresh memory costs as much as filling it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a tensor of undefined content; the next of its name takes its memory."""
        size = math.prod(shape)
        held = self._buffers.get(name)
        if held is None or len(held) < size:
            held = self._buffers[name] = torch.empty(size, dtype=dtype)
        return held[:size].view(shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Where spans lie among the keys of a group.

    targets  [spans] first slot of each, what stands before them counted
    own      [asking, 2] where each asking span's slots begin and end
    gaps     [gaps, 2] where padding begins and ends
    trims    whether the one asking span comes last, so that its rows can be cut short
    """

    targets: Tensor
    own: Tensor
    gaps: Tensor
    trims: bool

    @classmethod
    def of(cls, pages: Pages, cut: Cut, before: int, group: Group) -> _Order:
        """Leave spans where they are, or put a long one that asks alone behind the others.

        before  tokens that stand before them
        """
        asking, trims = group.spans, len(group.spans) == 1 and group.row.shape[1] > TRIM
        sizes, targets = cut.begins.diff(), cut.begins[:-1] + before
        if trims:
            targets = targets.clone()
            targets[asking.stop :] -= sizes[asking.start]
            targets[asking.start] = before + pages.slots - sizes[asking.start]
        ends = targets + sizes
        own = torch.stack((targets, ends), 1)[asking.start : asking.stop]
        gaps = torch.empty(0, 2, dtype=torch.int64)
        if pages.filled is not None:
            gaps = torch.stack((targets + cut.lengths, ends), 1)
        return cls(targets, own.contiguous(), gaps, trims)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """One layer and batch row of a set and of what is seen whole before it, contiguous.

    All is float32, but for values that the machine multiplies faster as they are: by weights that
    are rounded like them, as SDPA does it. Scores are float32: documents are sorted by them.

    end      as in `Ranked`
    group    query heads per key-value head
    before   [kv_heads, before, dim]          keys where they are
    raw      [kv_heads, slots, dim]           keys of the set, not rotated
    framed   [kv_heads, slots, dim]           the same, rotated in their span's frame
    partner  [kv_heads, slots, width]         what each dimension of `framed` turns with
    values   [kv_heads, before + slots, dim]
    """

    layer: Layer
    pages: Pages
    cut: Cut
    end: int
    group: int
    before: Tensor
    raw: Tensor
    framed: Tensor
    partner: Tensor
    values: Tensor
    scratch: Scratch

    @classmethod
    def of(
        cls,
        layer: Layer,
        cut: Cut,
        asked: Ranked,
        before: Sequence[Sight],
        row: int,
        heads: int,
    ) -> _Blocks:
        """Take one batch row of what is cached."""
        spans: SpanSet = asked.spans
        keys = [_placed(layer, sight, row) for sight in before]
        framed = spans.framed[row].float()
        values = torch.cat([*(each.span.values[row] for each in before), spans.values[row]], 1)
        partner = framed[..., :0] if layer.geometry is None else layer.geometry.partner(framed)
        raw = spans.raw[row].float()
        none = framed[:, :0]
        return cls(
            layer,
            spans.pages,
            cut,
            asked.end,
            heads // len(raw),
            (keys[0] if len(keys) == 1 else torch.cat([none, *keys], 1)).contiguous(),
            raw,
            framed,
            partner,
            values if values.dtype == torch.bfloat16 and _fast_bfloat() else values.float(),
            Scratch(),
        )

    def read(self, group: Group, query: Tensor, turned: Tensor) -> Tensor:
        """Return what the spans of a group read.

        query    [heads, asking, longest, dim]  scaled, not rotated
        turned   [heads, asking, longest, dim]  scaled, where they are in the nearest span
        returns  [heads, asking, longest, dim]
        """
        appears = self._appearance(group, query)
        order = _Order.of(self.pages, self.cut, self.before.shape[1], group)
        output, (_, asking, longest, dim) = torch.empty_like(query), query.shape
        slots = self.values.shape[1]
        per_head = self.group * asking * slots
        held = per_head * max(dim, min(longest, ROWS))
        for kv_heads, heads in head_blocks(len(self.raw), self.group, held, groups.BUDGET):
            keys, values = self._keys(kv_heads, appears[heads], order), self.values[kv_heads]
            if order.trims:
                values = self._own_last(values, group.spans.start)
            per_row = len(keys) * asking * slots
            for rows in row_blocks(
                longest, max(per_row, groups.BUDGET // TRIM if order.trims else 0), groups.BUDGET
            ):
                seen = int(order.own[0, 0]) + rows.stop if order.trims else slots
                known = keys[:, :, :seen], values[:, :seen]
                output[heads, :, rows] = self._attend(order, rows, turned[heads, :, rows], *known)
        return output

    def _attend(
        self, order: _Order, rows: slice, query: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return what some rows of each span of a group read.

        query    [heads, asking, rows, dim]
        keys     [heads, asking, seen, dim]
        values   [kv_heads, seen, dim]
        returns  [heads, asking, rows, dim]
        """
        (heads, asking, count, _), seen = query.shape, keys.shape[2]
        product = self.scratch.take("scores", heads, asking, count, seen)
        weights, rounds = product, values.dtype != product.dtype
        if rounds:
            weights = self.scratch.take("weights", *product.shape, dtype=values.dtype)
        factor = self.scratch.take("factor", heads, asking, count)
        flat = (query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
        torch.bmm(*flat, out=product.view(-1, count, seen))
        loops.weights(
            loops.WeightsTask(
                product=capped(product, self.layer.softcap).data_ptr(),
                rounded=weights.data_ptr() if rounds else 0,
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
        read = torch.bmm(weights.view(len(values), -1, seen), values).view(query.shape)
        return read.float().mul_(factor[..., None])

    def _keys(self, kv_heads: slice, appears: Tensor, order: _Order) -> Tensor:
        """Turn the keys of some heads to where they appear for each asking span.

        appears  [heads, asking, spans]
        returns  [heads, asking, before + slots, dim], in a buffer
        """
        before, framed, partner = self.before[kv_heads], self.framed[kv_heads], self.partner
        heads, asking, count = appears.shape
        keys = self.scratch.take("keys", heads, asking, *self.values.shape[1:])
        places, table = appears, torch.empty(self.end, 0)
        if self.layer.geometry is not None:
            places, table = self.layer.geometry.rows_at(appears, self.end)
        assert table.dtype == torch.float32
        loops.turn_keys(
            loops.KeysTask(
                fixed=before.data_ptr(),
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
                before=before.shape[1],
                slots=framed.shape[1],
                dim=framed.shape[2],
                width=partner.shape[2],
                spans=count,
                positions=len(table),
            )
        )
        return keys

    def _own_last(self, values: Tensor, span: int) -> Tensor:
        """Move the values of a span behind all others."""
        own, before = self.pages.bounds[span], self.before.shape[1]
        begin, end = before + own.start, before + own.stop
        if end == values.shape[1]:
            return values
        return torch.cat((values[:, :begin], values[:, end:], values[:, begin:end]), 1)

    def _appearance(self, group: Group, query: Tensor) -> Tensor:
        """Return where each span starts for each asking span of a group.

        query    [heads, asking, longest, dim]   not rotated
        returns  [heads, asking, spans] int64; the asking span itself is nearest
        """
        pages, (_, asking, longest, _) = self.pages, query.shape
        weight = torch.zeros((*query.shape[:2], len(pages.lengths)))
        if len(pages.lengths) > 2:  # with two there is one other, and nothing to sort
            per_head = self.group * asking * pages.slots
            held = per_head * min(longest, ROWS)
            for kv_heads, heads in head_blocks(len(self.raw), self.group, held, groups.BUDGET):
                raw = self.raw[kv_heads]
                for rows in row_blocks(longest, len(raw) * per_head, groups.BUDGET):
                    self._importance(group, query[heads, :, rows], raw, rows.start, weight[heads])
        weight[:, torch.arange(asking), list(group.spans)] = torch.inf
        return starts(nearest_first(weight), pages.lengths, self.end)

    def _importance(
        self, group: Group, query: Tensor, raw: Tensor, first: int, weight: Tensor
    ) -> None:
        """Add how important each span is to some rows of each asking span.

        query    [heads, asking, rows, dim]
        raw      [kv_heads, slots, dim]
        first    the first row
        weight   [heads, asking, spans]; but for the asking spans' own
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
                spans=weight.shape[2],
                own=group.spans.start,
                first=first,
            )
        )


@cache
def _fast_bfloat() -> bool:
    """Return whether the machine multiplies bfloat16 faster than float32: else it is emulated."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _placed(layer: Layer, sight: Sight, row: int) -> Tensor:
    """Return the keys of what stands at one place, turned to it: [kv_heads, kv, dim] float32."""
    keys = sight.span.keys[row].float()
    if sight.start == 0:
        return keys
    return turn(layer.geometry, keys, torch.as_tensor(sight.start))
