"""Rows by products of matrices in torch, with one softmax over all that they see; any device.

A single sight that stands at one place is SDPA's work, or at one place for each row. Everything
else goes in blocks of rows: what turns several times has its partner taken once, and angles come
from a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvedit.executors.blocks import row_blocks
from kvedit.pages import Pages, hide_padding
from kvedit.ranking import nearest_first, starts
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import SpanSet
from kvedit.state import capped
from kvedit.visibility import everything


def read(layer: Layer, query: Tensor, rows: Rows) -> Tensor:
    """Return what rows read.

    query    [batch, heads, query, dim] of these rows, not rotated
    returns  [batch, heads, query, dim]
    """
    sights = _seen(rows)
    if is_plain(layer, rows) and isinstance(sights[0], Sight):
        return _alone(layer, query, rows.place, sights[0])
    if len(sights) == 1 and layer.softcap is None and _is_per_row(sights[0]):
        return _row_by_row(layer, query, rows.place, sights[0])
    return _in_blocks(layer, query, rows.place, sights)


def is_plain(layer: Layer, rows: Rows) -> bool:
    """Return whether one span that stands at one place is all that is seen: SDPA reads that."""
    sights = _seen(rows)
    one = len(sights) == 1 and layer.softcap is None
    return one and isinstance(sights[0], Sight) and sights[0].fixed


def _seen(rows: Rows) -> list[Sight | Ranked]:
    return [each for each in rows.sights if isinstance(each, Ranked) or each.span.held]


def mass(layer: Layer, query: Tensor, spans: SpanSet) -> Tensor:
    """Return the natural log of each span's weight (see `kvedit.executors.Executor`)."""
    asking = _Asking.of(layer, query, spans.raw)
    product = hide_padding(asking.scores(asking.wide, spans.raw), spans.pages)
    most = product.amax(-1, keepdim=True)
    sums = spans.pages.per_span(product.sub_(most).exp_())
    return sums.log() + most


def _alone(layer: Layer, query: Tensor, place: int, sight: Sight) -> Tensor:
    """Read one span that stands where it is: all turned queries meet all keys in one frame."""
    span, count = sight.span, query.shape[2]
    first = int(sight.distance(place))
    keys, values = span.keys, span.values
    if layer.geometry is not None:
        query = layer.geometry.rotate(query, layer.geometry.between(first, first + count))
    own = int(sight.own(place))
    masks: dict[str, object] = {}
    if count > 1 and own == span.first and span.held == count and _reaches(sight, own, count):
        masks["is_causal"] = True
    elif not _sees_all(sight, own, span.first, span.length, count):
        device = query.device
        rows = torch.arange(own, own + count, device=device)
        masks["attn_mask"] = sight.visible.mask(
            rows, torch.arange(span.first, span.length, device=device)
        )
    return scaled_dot_product_attention(
        query,
        keys,
        values,
        scale=layer.scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
        **masks,  # type: ignore[arg-type]
    )


def _is_per_row(sight: Sight | Ranked) -> TypeGuard[Sight]:
    """Return whether a span stands at a place of its own for each row, whatever the head."""
    if isinstance(sight, Ranked) or sight.away is not None:
        return False
    return isinstance(sight.start, Tensor) and sight.start.dim() == 1


def _row_by_row(layer: Layer, query: Tensor, place: int, sight: Sight) -> Tensor:
    """Read one span that stands elsewhere for each row: what they see is a mask."""
    span, device = sight.span, query.device
    places = torch.arange(place, place + query.shape[2], device=device)
    distance = torch.as_tensor(sight.distance(places), device=device)
    kv = torch.arange(span.first, span.length, device=device)
    return scaled_dot_product_attention(
        turn(layer.geometry, query, distance),
        span.keys,
        span.values,
        attn_mask=sight.visible.mask(places, kv),
        scale=layer.scaling,
        enable_gqa=query.shape[1] != span.keys.shape[1],
    )


def _reaches(sight: Sight, own: int, count: int) -> bool:
    """Return whether rows that are the span's tokens see it causally, back to its first one."""
    visible = sight.visible
    far = visible.farthest is None or count <= visible.farthest
    return visible.nearest == 0 and far and visible.count is None


def _sees_all(sight: Sight, own: int, first: int, length: int, count: int) -> bool:
    """Return whether every row sees every token; the first sees least ahead, the last behind."""
    ahead, behind = (sight.visible.bounds(each) for each in (own, own + count - 1))
    ends = (*ahead, *behind)
    if not all(isinstance(each, int) for each in ends):
        return False
    return behind[0] <= first and ahead[1] >= length  # type: ignore[return-value]


def _in_blocks(layer: Layer, query: Tensor, place: int, sights: Sequence[Sight | Ranked]) -> Tensor:
    width = query.shape[-1]
    kv = sum(
        each.span.held
        if isinstance(each, Sight)
        else each.spans.pages.slots + len(each.spans.pages.owner) * width
        for each in sights
    )
    blocks = [
        _block(layer, query[:, :, rows], place + rows.start, sights, rows)
        for rows in row_blocks(query.shape[2], query.shape[1] * kv)
    ]
    if len(blocks) == 1:
        return blocks[0]
    return torch.cat(blocks, 2) if blocks else torch.empty_like(query)


def _block(
    layer: Layer, query: Tensor, place: int, sights: Sequence[Sight | Ranked], rows: slice
) -> Tensor:
    """Read by a block of rows, which ask from `place` on; `rows` are they among all."""
    asking = _Asking.of(layer, query, _keys_of(sights[0]))
    scores = [
        asking.ranked(each, place) if isinstance(each, Ranked) else asking.sight(each, place, rows)
        for each in sights
    ]
    joined = scores[0] if len(scores) == 1 else torch.cat(scores, -1)
    weights = torch.softmax(joined, -1)
    return asking.weigh(weights, [_values_of(each) for each in sights]).to(query.dtype)


def _keys_of(sight: Sight | Ranked) -> Tensor:
    return sight.span.keys if isinstance(sight, Sight) else sight.spans.raw


def _values_of(sight: Sight | Ranked) -> Tensor:
    return sight.span.values if isinstance(sight, Sight) else sight.spans.values


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

    def sight(self, sight: Sight, place: int, rows: slice) -> Tensor:
        """Return the scores of one span, -inf where a row does not see: [batch, heads, query, kv].

        rows  of these queries among those that the sight speaks of
        """
        span, count, device = sight.span, self.wide.shape[2], self.wide.device
        places = torch.arange(place, place + count, device=device)
        start = sight.start
        if isinstance(start, Tensor) and start.dim() and start.shape[-1] > 1:
            start = start[..., rows]
        if sight.away is None and isinstance(start, int):
            turned = self._turned(place - start)
        else:
            distance = sight.away if sight.away is not None else places - start
            far = torch.as_tensor(distance, device=device)
            turned = turn(self.layer.geometry, self.wide, far.expand(*far.shape[:-1], count))
        product = self.scores(turned, span.keys)
        if sight.visible is not everything:
            own = places - start if sight.fixed and isinstance(start, int) else places
            _hide(product, sight, own, rows)
        return product

    def ranked(self, sight: Ranked, place: int) -> Tensor:
        """Return the scores of spans where their weight puts them: [batch, heads, query, slots]."""
        spans, pages, count = sight.spans, sight.spans.pages, self.wide.shape[2]
        weight = _importance(hide_padding(self.scores(self.wide, spans.raw), pages), pages)
        if sight.told is not None:
            sight.told(weight)
        appears = starts(nearest_first(weight), pages.lengths, sight.end)
        places = torch.arange(place, place + count, device=appears.device)[:, None]
        distance = pages.per_page((place if count == 1 else places) - appears)
        near = self._page_scores(spans.framed, pages, distance, place + count)
        return hide_padding(near, pages)

    def weigh(self, weights: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Sum values by weights.

        weights  [batch, heads, query, kv] over all of the values
        values   [batch, kv_heads, kv, dim] each
        returns  [batch, heads, query, dim]
        """
        grouped, begin = weights.view(*self.grouped, -1), 0
        read: Tensor | None = None
        for value in values:
            end = begin + value.shape[2]
            part = grouped[..., begin:end] @ value.to(weights.dtype)
            read, begin = part if read is None else read.add_(part), end
        assert read is not None, "rows see something"
        return read.view_as(self.wide)

    def _turned(self, first: int) -> Tensor:
        """Return the queries turned by consecutive distances."""
        geometry = self.layer.geometry
        if geometry is None:
            return self.wide
        phases = geometry.between(first, first + self.wide.shape[2])
        return geometry.rotate(self.wide, phases, self.partner)

    def _page_scores(self, framed: Tensor, pages: Pages, distance: Tensor, reach: int) -> Tensor:
        """Return the scores of all pages: a query is turned once per page.

        framed    [batch, kv_heads, slots, dim]
        distance  [batch, heads, query, pages] tokens, 0 to below `reach`, from the start of the
                  page's span to the query
        returns   [batch, heads, query, slots]
        """
        (batch, kv_heads, rows), count = self.grouped, len(pages.owner)
        turned = self.wide[..., None, :]
        if self.layer.geometry is not None and self.partner is not None:
            phases = self.layer.geometry.looked_up(distance, reach)
            turned = self.layer.geometry.rotate(turned, phases, self.partner[..., None, :])
        paged = turned.expand(*self.wide.shape[:3], count, -1)
        paged = paged.reshape(batch, kv_heads, rows, count, -1).transpose(2, 3)
        keys = framed.view(batch, kv_heads, count, pages.length, -1)
        product = paged @ keys.to(paged.dtype).transpose(-1, -2)
        capped(product, self.layer.softcap)
        return product.transpose(2, 3).reshape(*self.wide.shape[:3], -1)


def _hide(product: Tensor, sight: Sight, own: Tensor, rows: slice) -> None:
    """Set the scores of what rows do not see to -inf."""
    visible, span = sight.visible, sight.span
    if isinstance(visible.count, Tensor) and visible.count.dim():
        visible = type(visible)(visible.nearest, visible.farthest, visible.count[rows])
    kv = torch.arange(span.first, span.length, device=own.device)
    seen = visible.mask(own, kv)
    if seen is not None:
        product.masked_fill_(~seen, -torch.inf)


def _importance(scores: Tensor, pages: Pages) -> Tensor:
    """Return what `kvedit.ranking.importance` does, of scores that are overwritten."""
    return pages.per_span(torch.softmax(scores, -1, out=scores)) / pages.lengths
