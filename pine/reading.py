"""PINE as a reading: documents as a set, each query sees its most important ones nearest.

Wang et al. (arXiv 2407.01100), section 3.3, in the reformulation of `kvedit`: within one document every
key moves by the same amount, so keys stay in their document's frame and distances are made by turns.

    rows of     see                                     where documents appear
    prefix      prefix, causal                          -
    document i  prefix, all other documents, itself     itself nearest, others by importance to the whole
                causally                                of document i
    suffix      prefix, all documents, suffix causally  by importance to each suffix token on its own
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

ROWS_BUDGET = 1 << 22  # scores held at once, elements per batch row: 16 MB in float32


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """What one layer keeps.

    outside  prefix and suffix, one span: both keep their positions, so they never move apart
    raw      [batch, kv_heads, slots, dim]          document keys, not rotated: importance needs them
    framed   [batch, kv_heads, pages, length, dim]  document keys, rotated in their document's frame
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
            return self._prefill(layer, query, key, value)
        start = self._end + cached.outside.length - self._prefix
        positions = torch.arange(start, start + query.shape[2], device=query.device)
        cached.outside.append(turn(layer.geometry, key, positions), value)
        return self._suffix_rows(layer, cached, query, positions)

    def report(self) -> Mapping[str, Any]:
        """Return how many documents there are and, by canonical place, the caller's index of each."""
        order = list(self._segments.order)
        return {"pine": {"documents": len(order), "canonical_order": order}}

    def _prefill(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self._pages is None:
            self._pages = Pages.of(self._segments.lengths, query.device)
        prefix, end = self._prefix, self._end
        frame = self._frame(query.shape[2], self._pages)
        framed_key, framed_query = turn(layer.geometry, key, frame), turn(layer.geometry, query, frame)
        cached = self._cache(framed_key, key, value)
        self._cached[layer.index] = cached
        output = torch.empty_like(query)
        output[:, :, :prefix] = _causal_attention(
            layer, framed_query[:, :, :prefix], framed_key[:, :, :prefix], value[:, :, :prefix]
        )
        rows = slice(prefix, end)
        output[:, :, rows] = self._document_rows(
            layer, cached, query[:, :, rows], framed_query[:, :, rows]
        )
        output[:, :, end:] = self._suffix_rows(layer, cached, query[:, :, end:], frame[end:])
        return output

    def _frame(self, length: int, pages: Pages) -> Tensor:
        """Return each token's position in its own span's frame, [length] tokens."""
        device = pages.place.device
        prefix = torch.arange(self._prefix, device=device)
        suffix = torch.arange(self._end, length, device=device)
        return torch.cat([prefix, pages.place[pages.slot_of], suffix])

    def _cache(self, framed_key: Tensor, key: Tensor, value: Tensor) -> Cached:
        assert self._pages is not None
        outside, rows = Span(), slice(self._prefix, self._end)
        for part in (slice(0, self._prefix), slice(self._end, None)):
            outside.append(framed_key[:, :, part], value[:, :, part])
        framed = self._pages.lay(framed_key[:, :, rows])
        return Cached(
            outside,
            self._pages.lay(key[:, :, rows]),
            framed.unflatten(2, (-1, self._pages.length)),
            self._pages.lay(value[:, :, rows]),
        )

    def _document_rows(
        self, layer: Layer, cached: Cached, query: Tensor, framed_query: Tensor
    ) -> Tensor:
        """Return what document tokens read, [batch, heads, tokens, dim].

        For one query document and head every other document is at one constant distance, so its key
        block is turned by that constant, and one masked attention reads prefix and blocks.
        """
        pages = self._pages
        assert pages is not None
        groups = query.shape[1] // cached.raw.shape[1]
        prefix_keys = cached.outside.keys[:, :, : self._prefix]
        prefix_values = cached.outside.values[:, :, : self._prefix]
        values = torch.cat([prefix_values, cached.values], 2).repeat_interleave(groups, 1)
        blocks = values.new_empty(values.shape)
        output = torch.empty_like(query)
        first = 0
        for document, length in enumerate(self._segments.lengths):
            rows = slice(first, first + length)
            first += length
            appears = self._appearance(layer, cached, query[:, :, rows], document)
            base = self._end - length  # position of the query document's first token
            distance = torch.full((1,), -base, device=query.device)
            prefix = turn(layer.geometry, prefix_keys, distance).repeat_interleave(groups, 1)
            blocks[:, :, : self._prefix] = prefix
            shift = pages.per_page(appears - base)[..., None]
            keys = cached.framed.repeat_interleave(groups, 1)
            blocks[:, :, self._prefix :] = turn(layer.geometry, keys, shift).flatten(2, 3)
            visible = self._visible_to_document(document, length)
            output[:, :, rows] = _attention(
                layer, framed_query[:, :, rows], blocks, values, visible
            )
        return output

    def _appearance(self, layer: Layer, cached: Cached, query: Tensor, document: int) -> Tensor:
        """Return where each document starts for one query document, [batch, heads, documents]."""
        pages = self._pages
        assert pages is not None
        documents = len(pages.lengths)
        weight = torch.zeros((*query.shape[:2], documents), device=query.device)
        if documents > 2:  # with two there is one other, and nothing to sort
            own = pages.own(document)
            own = own if pages.filled is None else own | ~pages.filled
            for rows in _row_blocks(query.shape[2], query.shape[1] * pages.slots):
                product = scores(query[:, :, rows], cached.raw, layer.scaling, layer.softcap)
                weight = weight + importance_to_document(product, pages, own)
        weight[..., document] = torch.inf
        return starts(nearest_first(weight), pages.lengths, self._end)

    def _visible_to_document(self, document: int, length: int) -> Tensor:
        """Return what a query document sees, [length, prefix + slots] bool."""
        pages = self._pages
        assert pages is not None
        token = torch.arange(length, device=pages.place.device)
        visible = ~pages.own(document) | causal(token, pages.place)
        if pages.filled is not None:
            visible &= pages.filled
        return torch.cat([visible.new_ones((length, self._prefix)), visible], 1)

    def _suffix_rows(
        self, layer: Layer, cached: Cached, query: Tensor, positions: Tensor
    ) -> Tensor:
        """Return what suffix tokens read, [batch, heads, query, dim]; each sorts for itself."""
        pages = self._pages
        assert pages is not None
        output = torch.empty_like(query)
        documents, dim = len(pages.lengths), query.shape[-1]
        per_row = query.shape[1] * (pages.slots + documents * dim + cached.outside.length)
        for rows in _row_blocks(query.shape[2], per_row):
            output[:, :, rows] = self._suffix_block(
                layer, cached, query[:, :, rows], positions[rows]
            )
        return output

    def _suffix_block(
        self, layer: Layer, cached: Cached, query: Tensor, positions: Tensor
    ) -> Tensor:
        pages, outside = self._pages, cached.outside
        assert pages is not None
        distance = positions[:, None] - self._suffix_appearance(layer, cached, query)
        near = _document_scores(layer, cached, query, pages.per_page(distance))
        if pages.filled is not None:
            near.masked_fill_(~pages.filled, -torch.inf)
        turned = turn(layer.geometry, query, positions)
        far = scores(turned, outside.keys, layer.scaling, layer.softcap)
        if len(positions) > 1 or outside.length - self._prefix > positions[0] - self._end + 1:
            place = torch.arange(outside.length, device=query.device)
            far.masked_fill_(~causal(positions - self._end + self._prefix, place), -torch.inf)
        weights = torch.softmax(torch.cat([near, far], -1), -1)
        read = weigh(weights[..., : pages.slots], cached.values)
        read += weigh(weights[..., pages.slots :], outside.values)
        return read.to(query.dtype)

    def _suffix_appearance(self, layer: Layer, cached: Cached, query: Tensor) -> Tensor:
        """Return where each document starts for each suffix token, [batch, heads, query, documents]."""
        pages = self._pages
        assert pages is not None
        product = scores(query, cached.raw, layer.scaling, layer.softcap)
        if pages.filled is not None:
            product.masked_fill_(~pages.filled, -torch.inf)
        return starts(nearest_first(importance(product, pages)), pages.lengths, self._end)


def _document_scores(layer: Layer, cached: Cached, query: Tensor, distance: Tensor) -> Tensor:
    """Return the scores of suffix queries and all pages: a query turned once per page.

    query     [batch, heads, query, dim]    not rotated
    distance  [batch, heads, query, pages]  tokens from the page's document's start to the query
    returns   [batch, heads, query, slots] float32
    """
    batch, heads, length, _ = query.shape
    kv_heads, pages, _, dim = cached.framed.shape[1:]
    turned = turn(layer.geometry, query[..., None, :], distance)
    turned = turned.expand(batch, heads, length, pages, dim)
    grouped = turned.reshape(batch, kv_heads, heads // kv_heads * length, pages, dim)
    precise = torch.promote_types(query.dtype, torch.float32)
    product = grouped.transpose(2, 3).to(precise) @ cached.framed.to(precise).transpose(-1, -2)
    product = capped(product.mul_(layer.scaling), layer.softcap)
    return product.transpose(2, 3).reshape(batch, heads, length, -1)


def _causal_attention(layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    token = torch.arange(query.shape[2], device=query.device)
    return _attention(layer, query, key, value, causal(token, token))


def _attention(
    layer: Layer, query: Tensor, key: Tensor, value: Tensor, visible: Tensor
) -> Tensor:
    """Return the output of masked attention, by SDPA where the scores are not capped."""
    if layer.softcap is not None:
        state = attend(query, key, value, layer.scaling, visible=visible, softcap=layer.softcap)
        return state.output.to(query.dtype)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=visible, scale=layer.scaling, enable_gqa=grouped
    )


def _row_blocks(rows: int, per_row: int) -> Iterator[slice]:
    """Yield slices of rows such that each block holds at most `ROWS_BUDGET` elements."""
    step = max(1, ROWS_BUDGET // max(1, per_row))
    for first in range(0, rows, step):
        yield slice(first, min(rows, first + step))
