"""What document tokens read: PINE's bidirectional attention between documents.

For one query document and head every other document stands at one constant distance, since its keys
move together. So key blocks are turned by that constant, and one masked attention reads them all.
Small documents are read many at a time, large ones one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.plain import causal, masked_attention
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.state import scores
from pine.blocks import row_blocks
from pine.cache import Cached, Layout
from pine.importance import importance_to_document
from pine.order import nearest_first, starts
from pine.pages import hide_padding

TURNED_BUDGET = 1 << 20  # numbers of turned keys held at once: 4 MB in float32, near the cache
WASTE = 2  # rows of a group of documents, padded, over its tokens: at most


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Consecutive query documents that are read together, padded to the longest.

    documents  their indices, a range
    tokens     the rows of their tokens, counted from the first document
    row        [documents, longest] int64, the row of each token among `tokens`; padding repeats 0
    real       [documents, longest] bool, False at padding
    base       [documents] int64, position of each one's first token when it is nearest
    """

    documents: range
    tokens: slice
    row: Tensor
    real: Tensor
    base: Tensor

    @classmethod
    def of(cls, layout: Layout, documents: range) -> Group:
        """Group some documents of a layout."""
        device = layout.pages.place.device
        lengths = layout.pages.lengths[documents.start : documents.stop]
        before = sum(layout.lengths[: documents.start])
        place = torch.arange(max(layout.lengths[d] for d in documents), device=device)
        real = place < lengths[:, None]
        row = (lengths.cumsum(0) - lengths)[:, None] + place
        tokens = slice(before, before + int(lengths.sum()))
        return cls(documents, tokens, row.where(real, 0), real, layout.end - lengths)

    def gather(self, rows: Tensor) -> Tensor:
        """Take tokens to the padded form: [.., tokens, dim] -> [.., documents, longest, dim]."""
        return rows[..., self.row.flatten(), :].view(*rows.shape[:-2], *self.row.shape, -1)

    def scatter(self, padded: Tensor) -> Tensor:
        """Take the padded form back to tokens."""
        return padded.flatten(-3, -2)[..., self.real.flatten().nonzero().flatten(), :]


def groups(layout: Layout, per_document: int) -> Iterator[Group]:
    """Yield the documents in groups that fit the budget.

    per_document  numbers of turned keys that one query document needs
    """
    first, most = 0, max(1, TURNED_BUDGET // max(1, per_document))
    for last in range(1, len(layout.lengths) + 1):
        following = layout.lengths[first : last + 1]
        fits = len(following) <= most and len(following) * max(following) <= WASTE * sum(following)
        if last == len(layout.lengths) or not fits:
            yield Group.of(layout, range(first, last))
            first = last


def document_rows(
    layer: Layer, layout: Layout, cached: Cached, query: Tensor, framed_query: Tensor
) -> Tensor:
    """Return what all document tokens read.

    query         [batch, heads, tokens, dim]  not rotated, documents one after the other
    framed_query  [batch, heads, tokens, dim]  rotated in their document's frame
    returns       [batch, heads, tokens, dim]
    """
    if layout.plan is not None:
        from pine.kernels import launch  # triton is there where a plan is

        return launch.document_rows(layer, layout.plan, launch.Keys.of(cached), query)
    output = torch.empty_like(query)
    blocks = _Blocks.of(layout, cached, query.shape[1])
    batch, heads, _, dim = query.shape
    for group in groups(layout, blocks.values[0].numel()):
        appears = _appearance(layer, layout, cached, group.gather(query[:, :, group.tokens]), group)
        keys = blocks.keys_from(layer, layout, group, appears)
        values = blocks.values[:, None].expand(-1, len(group.documents), -1, -1, -1)
        asking = group.gather(framed_query[:, :, group.tokens]).transpose(1, 2)
        visible = _visible(layout, group)[:, None]
        read = masked_attention(
            layer,
            asking.reshape(-1, *asking.shape[2:]),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            visible.repeat(batch, 1, 1, 1),
        )
        read = read.view(batch, -1, heads, read.shape[-2], dim).transpose(1, 2)
        output[:, :, group.tokens] = group.scatter(read)
    return output


def _appearance(
    layer: Layer, layout: Layout, cached: Cached, query: Tensor, group: Group
) -> Tensor:
    """Return where each document starts for each query document of a group.

    query    [batch, heads, asking, longest, dim]   not rotated
    returns  [batch, heads, asking, documents] int64; the asking document itself is nearest
    """
    pages, asking = layout.pages, torch.arange(len(group.documents))
    weight = torch.zeros((*query.shape[:3], len(pages.lengths)), device=query.device)
    if len(pages.lengths) > 2:  # with two there is one other, and nothing to sort
        for rows in row_blocks(query.shape[3], query[0, :, :, 0, 0].numel() * pages.slots):
            block = query[:, :, :, rows]
            product = scores(block.flatten(2, 3), cached.raw, layer.scaling, layer.softcap)
            product = hide_padding(product, pages).view(*block.shape[:-1], pages.slots)
            for place, document in enumerate(group.documents):
                product[:, :, place, :, pages.bounds[document]] = -torch.inf
            weight += importance_to_document(product, pages, group.real[:, rows])
    weight[:, :, asking, list(group.documents)] = torch.inf
    return starts(nearest_first(weight), pages.lengths, layout.end)


def _visible(layout: Layout, group: Group) -> Tensor:
    """Return what each query document sees, [asking, longest, prefix + slots] bool."""
    pages, (asking, longest) = layout.pages, group.row.shape
    visible = torch.ones(
        (asking, longest, layout.prefix + pages.slots), dtype=torch.bool, device=group.row.device
    )
    token = torch.arange(longest, device=group.row.device)
    for place, document in enumerate(group.documents):
        own = pages.bounds[document]
        visible[place, :, layout.prefix :][:, own] = causal(token, pages.place[own])
    if pages.filled is not None:
        visible[:, :, layout.prefix :] &= pages.filled
    return visible


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Prefix and documents of one layer, with one key head per query head.

    prefix  [batch, 1, heads, prefix, dim]
    framed  [batch, 1, heads, pages, length, dim]
    values  [batch, heads, prefix + slots, dim]
    """

    prefix: Tensor
    framed: Tensor
    values: Tensor

    @classmethod
    def of(cls, layout: Layout, cached: Cached, heads: int) -> _Blocks:
        """Expand one layer's cache."""
        repeats, prefix = heads // cached.raw.shape[1], slice(0, layout.prefix)
        keys, values = cached.outside.keys[:, :, prefix], cached.outside.values[:, :, prefix]
        return cls(
            keys.repeat_interleave(repeats, 1)[:, None],
            cached.framed.repeat_interleave(repeats, 1)[:, None],
            torch.cat([values, cached.values], 2).repeat_interleave(repeats, 1),
        )

    def keys_from(self, layer: Layer, layout: Layout, group: Group, appears: Tensor) -> Tensor:
        """Turn all key blocks to where they appear from each query document's frame.

        appears  [batch, heads, asking, documents]
        returns  [batch, asking, heads, prefix + slots, dim]
        """
        pages = layout.pages
        shift = pages.per_page(appears - group.base[:, None]).transpose(1, 2)[..., None]
        shape = (shift.shape[0], len(group.documents), *self.values.shape[1:])
        keys = self.values.new_empty(shape)
        keys[..., : layout.prefix, :] = turn(
            layer.geometry, self.prefix, -group.base[:, None, None]
        )
        keys[..., layout.prefix :, :] = turn(layer.geometry, self.framed, shift).flatten(3, 4)
        return keys
