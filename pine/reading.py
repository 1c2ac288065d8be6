"""PINE as a reading: documents as a set, each query sees its most important ones nearest.

Wang et al. (arXiv 2407.01100), section 3.3, in the reformulation of `kvedit`: within one document
every key moves by the same amount, so keys stay in their document's frame and distances are turns.

    rows of     see                                     where documents appear
    prefix      prefix, causally                        -
    document i  prefix, the other documents whole,      itself nearest, the others by importance
                itself causally                         to all of document i
    suffix      prefix, documents whole, suffix         by importance to each suffix token
                causally
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvedit.plain import causal
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.spans import Span
from kvedit.state import attend, capped, scores, weigh
from pine.importance import importance, importance_to_document
from pine.order import nearest_first, starts
from pine.pages import Pages
from pine.segments import Segments

ROWS_BUDGET = 1 << 22  # numbers that one block of rows may hold, per batch row: 16 MB in float32


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """What one layer keeps.

    outside  prefix and suffix, one span: both keep their positions, so they never move apart
    raw      [batch, kv_heads, slots, dim]          document keys not rotated, for importance
    framed   [batch, kv_heads, pages, length, dim]  document keys rotated in their document's frame
    values   [batch, kv_heads, slots, dim]
    """

    outside: Span
    raw: Tensor
    framed: Tensor
    values: Tensor


class Pine:
    """The reading of one prompt whose documents are a set; made anew for each sequence.

    segments  in canonical order, with at least one document, none of them empty
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._prefix = len(segments.prefix)
        self._end = self._prefix + sum(segments.lengths)  # position of the first suffix token
        self._pages: Pages | None = None
        self._cached: dict[int, Cached] = {}

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Read the whole prompt at the first call, further suffix tokens after (see `Reading`)."""
        cached = self._cached.get(layer.index)
        if cached is None:
            if self._pages is None:
                self._pages = Pages.of(self._segments.lengths, query.device)
            return self._prefill(layer, self._pages, query, key, value)
        assert self._pages is not None
        start = self._end + cached.outside.length - self._prefix
        positions = torch.arange(start, start + query.shape[2], device=query.device)
        cached.outside.append(turn(layer.geometry, key, positions), value)
        return self._suffix_rows(layer, self._pages, cached, query, start)

    def report(self) -> Mapping[str, Any]:
        """Return the number of documents and, by canonical place, the caller's index of each."""
        order = list(self._segments.order)
        return {"pine": {"documents": len(order), "canonical_order": order}}

    def _prefill(
        self, layer: Layer, pages: Pages, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        frame = self._frame(query.shape[2], pages)
        framed_key = turn(layer.geometry, key, frame)
        framed_query = turn(layer.geometry, query, frame)
        cached = self._cache(pages, framed_key, key, value)
        self._cached[layer.index] = cached
        output = torch.empty_like(query)
        outside = slice(0, self._prefix)
        output[:, :, outside] = _attention(
            layer,
            framed_query[:, :, outside],
            framed_key[:, :, outside],
            value[:, :, outside],
            causal(frame[outside], frame[outside]),
        )
        first = self._prefix
        expanded = _expand(layer, self._prefix, cached, query.shape[1])
        for document, length in enumerate(self._segments.lengths):
            rows = slice(first, first + length)
            first += length
            appears = self._appearance(layer, pages, cached, query[:, :, rows], document)
            base = self._end - length  # position of the query document's first token
            keys = expanded.keys_from(layer, base, pages.per_page(appears))
            visible = self._visible_to_document(pages, document, length)
            output[:, :, rows] = _attention(
                layer, framed_query[:, :, rows], keys, expanded.values, visible
            )
        suffix = query[:, :, self._end :]
        output[:, :, self._end :] = self._suffix_rows(layer, pages, cached, suffix, self._end)
        return output

    def _frame(self, length: int, pages: Pages) -> Tensor:
        """Return each token's position in its own span's frame, [length] tokens."""
        device = pages.place.device
        prefix = torch.arange(self._prefix, device=device)
        suffix = torch.arange(self._end, length, device=device)
        return torch.cat([prefix, pages.place[pages.slot_of], suffix])

    def _cache(self, pages: Pages, framed_key: Tensor, key: Tensor, value: Tensor) -> Cached:
        outside, rows = Span(), slice(self._prefix, self._end)
        for part in (slice(0, self._prefix), slice(self._end, None)):
            outside.append(framed_key[:, :, part], value[:, :, part])
        framed = pages.lay(framed_key[:, :, rows])
        return Cached(
            outside,
            pages.lay(key[:, :, rows]),
            framed.view(*framed.shape[:2], -1, pages.length, framed.shape[-1]),
            pages.lay(value[:, :, rows]),
        )

    def _appearance(
        self, layer: Layer, pages: Pages, cached: Cached, query: Tensor, document: int
    ) -> Tensor:
        """Return where each document starts for one query document, [batch, heads, documents]."""
        documents = len(pages.lengths)
        weight = torch.zeros((*query.shape[:2], documents), device=query.device)
        if documents > 2:  # with two there is one other, and nothing to sort
            for rows in _row_blocks(query.shape[2], query.shape[1] * pages.slots):
                product = scores(query[:, :, rows], cached.raw, layer.scaling, layer.softcap)
                product[..., pages.bounds[document]] = -torch.inf
                weight = weight + importance_to_document(_hide_padding(product, pages), pages)
        weight[..., document] = torch.inf
        return starts(nearest_first(weight), pages.lengths, self._end)

    def _visible_to_document(self, pages: Pages, document: int, length: int) -> Tensor:
        """Return what a query document sees, [length, prefix + slots] bool."""
        device = pages.place.device
        visible = torch.ones((length, self._prefix + pages.slots), dtype=torch.bool, device=device)
        others = visible[:, self._prefix :]
        own = pages.bounds[document]
        others[:, own] = causal(torch.arange(length, device=device), pages.place[own])
        if pages.filled is not None:
            others &= pages.filled
        return visible

    def _suffix_rows(
        self, layer: Layer, pages: Pages, cached: Cached, query: Tensor, start: int
    ) -> Tensor:
        """Return what suffix tokens from position `start` on read; each sorts for itself."""
        output = torch.empty_like(query)
        turned = len(pages.owner) * query.shape[-1]
        per_row = query.shape[1] * (pages.slots + turned + cached.outside.length)
        for rows in _row_blocks(query.shape[2], per_row):
            block = query[:, :, rows]
            output[:, :, rows] = self._suffix_block(layer, pages, cached, block, start + rows.start)
        return output

    def _suffix_block(
        self, layer: Layer, pages: Pages, cached: Cached, query: Tensor, start: int
    ) -> Tensor:
        outside = cached.outside
        positions = torch.arange(start, start + query.shape[2], device=query.device)
        product = scores(query, cached.raw, layer.scaling, layer.softcap)
        order = nearest_first(importance(_hide_padding(product, pages), pages))
        distance = positions[:, None] - starts(order, pages.lengths, self._end)
        near = _document_scores(layer, cached, query, pages.per_page(distance))
        turned = turn(layer.geometry, query, positions)
        far = scores(turned, outside.keys, layer.scaling, layer.softcap)
        first = start - self._end + self._prefix  # the block's first row among the outside keys
        if outside.length > first + 1:
            place = torch.arange(outside.length, device=query.device)
            far.masked_fill_(~causal(place[first : first + len(positions)], place), -torch.inf)
        weights = torch.softmax(torch.cat([_hide_padding(near, pages), far], -1), -1)
        read = weigh(weights[..., : pages.slots], cached.values)
        read += weigh(weights[..., pages.slots :], outside.values)
        return read.to(query.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Expanded:
    """Prefix and documents of one layer with one key head per query head, for document rows.

    keys    [batch, heads, prefix + slots, dim]  a buffer, turned anew for each query document
    values  [batch, heads, prefix + slots, dim]
    """

    prefix: Tensor
    framed: Tensor
    keys: Tensor
    values: Tensor

    def keys_from(self, layer: Layer, base: int, appears: Tensor) -> Tensor:
        """Turn all key blocks to where they appear from a query document.

        Every document is at one constant distance per head, since its keys move together.

        base     position of the query document's first token
        appears  [batch, heads, pages] position where each page's document starts
        returns  [batch, heads, prefix + slots, dim] keys in the query document's frame
        """
        prefix = self.prefix.shape[2]
        distance = torch.full((1,), -base, device=appears.device)
        self.keys[:, :, :prefix] = turn(layer.geometry, self.prefix, distance)
        turned = turn(layer.geometry, self.framed, (appears - base)[..., None])
        self.keys[:, :, prefix:] = turned.flatten(2, 3)
        return self.keys


def _expand(layer: Layer, prefix: int, cached: Cached, heads: int) -> _Expanded:
    groups = heads // cached.raw.shape[1]
    prefix_values = cached.outside.values[:, :, :prefix]
    values = torch.cat([prefix_values, cached.values], 2).repeat_interleave(groups, 1)
    prefix_keys = cached.outside.keys[:, :, :prefix].repeat_interleave(groups, 1)
    framed = cached.framed.repeat_interleave(groups, 1)
    return _Expanded(prefix_keys, framed, torch.empty_like(values), values)


def _document_scores(layer: Layer, cached: Cached, query: Tensor, distance: Tensor) -> Tensor:
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


def _hide_padding(product: Tensor, pages: Pages) -> Tensor:
    """Set the scores of padding to -inf, in place."""
    return product if pages.filled is None else product.masked_fill_(~pages.filled, -torch.inf)


def _attention(layer: Layer, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Return the output of masked attention, by SDPA where the scores are not capped."""
    if layer.softcap is not None:
        state = attend(query, key, value, layer.scaling, visible=visible, softcap=layer.softcap)
        return state.output.to(query.dtype)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=visible, scale=layer.scaling, enable_gqa=grouped
    )


def _row_blocks(rows: int, per_row: int) -> Iterator[slice]:
    """Yield slices of rows such that each block holds at most `ROWS_BUDGET` numbers."""
    step = max(1, ROWS_BUDGET // max(1, per_row))
    for first in range(0, rows, step):
        yield slice(first, min(rows, first + step))
