"""What document tokens read: PINE's bidirectional attention between documents.

For one query document and head every other document stands at one constant distance, since its keys
move together. So key blocks are turned by that constant, and one masked attention reads them all.
Small documents are read many at a time, large ones a few rows at a time: what is held between two
products stays near the cache, in buffers that all documents of a layer use in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.plain import causal
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.state import capped
from pine.blocks import row_blocks
from pine.cache import Cached, Layout
from pine.importance import importance_to_document
from pine.order import nearest_first, starts
from pine.pages import hide_padding

BUDGET = 1 << 21  # numbers of turned keys, or of scores, held at once: 8 MB, near the cache
ROWS = 128  # rows of a document that one step reads at least, where they are held at once
WASTE = 2  # rows of a group of documents, padded, over its tokens: at most


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Consecutive query documents that are read together, padded to the longest.

    documents  their indices, a range
    tokens     the rows of their tokens, counted from the first document
    row        [documents, longest] int64, the row of each token among `tokens`; padding repeats 0
    real       [documents, longest] bool, False at padding
    ahead      by document, [longest, slots of its own]: -inf for what comes after each row, else 0
    even       whether all are of one length, so that nothing is padded
    """

    documents: range
    tokens: slice
    row: Tensor
    real: Tensor
    ahead: tuple[Tensor, ...]
    even: bool

    @classmethod
    def of(cls, layout: Layout, documents: range) -> Group:
        """Group some documents of a layout."""
        device = layout.pages.place.device
        lengths = layout.pages.lengths[documents.start : documents.stop]
        own = [layout.lengths[document] for document in documents]
        before = sum(layout.lengths[: documents.start])
        place = torch.arange(max(own), device=device)
        real = place < lengths[:, None]
        row = (lengths.cumsum(0) - lengths)[:, None] + place
        tokens = slice(before, before + sum(own))
        pages, even = layout.pages, min(own) == max(own)
        some = dict(
            zip(own, documents, strict=True)
        )  # one of each length: their masks are the same
        masks = {
            size: _ahead(place, pages.place[pages.bounds[each]]) for size, each in some.items()
        }
        ahead = tuple(masks[size] for size in own)
        return cls(documents, tokens, row.where(real, 0), real, ahead, even)

    def gather(self, rows: Tensor) -> Tensor:
        """Take all tokens to this group's padded form.

        rows     [heads, tokens, dim] of all documents
        returns  [heads, documents, longest, dim]
        """
        own = rows[:, self.tokens]
        if not self.even:
            own = own[:, self.row.flatten()]
        return own.view(len(own), *self.row.shape, -1)

    def scatter(self, padded: Tensor) -> Tensor:
        """Take the padded form back to tokens."""
        flat = padded.flatten(1, 2)
        return flat if self.even else flat[:, self.real.flatten().nonzero().flatten()]


def _ahead(token: Tensor, slot: Tensor) -> Tensor:
    """Return -inf where a slot comes after a token, else 0: adding is faster than filling."""
    hidden = ~causal(token, slot)
    return hidden.float().masked_fill_(hidden, -torch.inf)


def groups(layout: Layout, per_document: int) -> Iterator[Group]:
    """Yield the documents in groups that fit the budget.

    per_document  numbers of turned keys that one query document needs
    """
    first, most = 0, max(1, BUDGET // max(1, per_document))
    for last in range(1, len(layout.lengths) + 1):
        following = layout.lengths[first : last + 1]
        fits = len(following) <= most and len(following) * max(following) <= WASTE * sum(following)
        if last == len(layout.lengths) or not fits:
            yield Group.of(layout, range(first, last))
            first = last


def document_rows(layer: Layer, layout: Layout, cached: Cached, query: Tensor) -> Tensor:
    """Return what all document tokens read.

    query    [batch, heads, tokens, dim]  not rotated, documents one after the other
    returns  [batch, heads, tokens, dim]
    """
    if layout.plan is not None:
        from pine.kernels import launch  # triton is there where a plan is

        return launch.document_rows(layer, layout.plan, launch.Keys.of(cached), query)
    output = torch.empty_like(query)
    wide = query.to(torch.promote_types(query.dtype, torch.float32)) * layer.scaling
    turned = turn(layer.geometry, wide, layout.nearest)
    for row in range(query.shape[0]):
        blocks = _Blocks.of(layer, layout, cached, row, query.shape[1])
        for group in groups(layout, blocks.size * blocks.group):
            asking = (group.gather(each[row]) for each in (wide, turned))
            output[row, :, group.tokens] = group.scatter(blocks.read(group, *asking))
    return output


class Scratch:
    """Buffers that the steps of one layer use in turn: fresh memory costs as much as filling it."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of undefined content; the next of its name takes its memory."""
        size = math.prod(shape)
        held = self._buffers.get(name)
        if held is None or len(held) < size:
            held = self._buffers[name] = self._like.new_empty(size)
        return held[:size].view(shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Prefix and documents of one layer and batch row, in float32.

    group    query heads per key-value head
    raw      [kv_heads, slots, dim]            document keys, not rotated
    prefix   [kv_heads, 1, 1, prefix, dim]     keys where they are
    framed   [kv_heads, 1, 1, pages, length, dim]
    partner  of `framed`: what each dimension turns with, or None without positions
    values   [kv_heads, prefix + slots, dim]
    """

    layer: Layer
    layout: Layout
    group: int
    raw: Tensor
    prefix: Tensor
    framed: Tensor
    partner: Tensor | None
    values: Tensor
    scratch: Scratch

    @classmethod
    def of(cls, layer: Layer, layout: Layout, cached: Cached, row: int, heads: int) -> _Blocks:
        """Take one batch row of what the layer has cached."""
        precise = torch.promote_types(cached.raw.dtype, torch.float32)
        outside = slice(0, layout.prefix)
        prefix = cached.outside.keys[row, :, None, None, outside].to(precise)
        framed = cached.framed[row, :, None, None].to(precise)
        values = [cached.outside.values[row, :, outside], cached.values[row]]
        return cls(
            layer,
            layout,
            heads // cached.raw.shape[1],
            cached.raw[row].to(precise),
            prefix,
            framed,
            None if layer.geometry is None else layer.geometry.partner(framed),
            torch.cat(values, 1).to(precise),
            Scratch(framed),
        )

    @property
    def size(self) -> int:
        """Return the numbers of all keys, one key head per key-value head."""
        return self.values.numel()

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
        for kv_heads in row_blocks(len(self.raw), per_head * max(dim, min(longest, ROWS)), BUDGET):
            heads = slice(kv_heads.start * self.group, kv_heads.stop * self.group)
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
        shape = (*query.shape[:3], keys.shape[2])
        product = self.scratch.take("scores", *shape)
        flat = (query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
        torch.bmm(*flat, out=product.view(-1, *shape[2:]))
        capped(product, self.layer.softcap)
        hide_padding(product[..., prefix:], pages)
        for place, document in enumerate(group.documents):
            own = product[:, place, :, prefix:][..., pages.bounds[document]]
            own += group.ahead[place][rows]
        weights = torch.softmax(product, -1, out=product)
        values = self.values[kv_heads]
        return torch.bmm(weights.view(len(values), -1, shape[3]), values).view(query.shape)

    def _keys(self, kv_heads: slice, appears: Tensor) -> Tensor:
        """Turn the document keys of some heads to where they appear for each query document.

        appears  [heads, asking, documents]
        returns  [heads, asking, prefix + slots, dim], in a buffer
        """
        pages, framed = self.layout.pages, self.framed[kv_heads]
        keys = self.scratch.take("keys", *appears.shape[:2], *self.values.shape[1:])
        target = keys.view(len(framed), self.group, *keys.shape[1:])
        target[..., : self.layout.prefix, :] = self.prefix[kv_heads]
        inside = target[..., self.layout.prefix :, :]
        inside = inside.view(*inside.shape[:3], *framed.shape[3:])
        geometry = self.layer.geometry
        if geometry is None or self.partner is None:
            inside.copy_(framed)
            return keys
        places = pages.per_page(appears).view(*inside.shape[:4], 1)
        phases = geometry.looked_up(places, self.layout.end)
        geometry.rotate_into(inside, framed, self.partner[kv_heads], phases)
        return keys

    def _appearance(self, group: Group, query: Tensor) -> Tensor:
        """Return where each document starts for each query document of a group.

        query    [heads, asking, longest, dim]   not rotated
        returns  [heads, asking, documents] int64; the asking document itself is nearest
        """
        pages, (_, asking, longest, _) = self.layout.pages, query.shape
        weight = self.raw.new_zeros((*query.shape[:2], len(pages.lengths)))
        if len(pages.lengths) > 2:  # with two there is one other, and nothing to sort
            per_head = self.group * asking * pages.slots
            for kv_heads in row_blocks(len(self.raw), per_head * min(longest, ROWS), BUDGET):
                heads = slice(kv_heads.start * self.group, kv_heads.stop * self.group)
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
        pages = self.layout.pages
        product = self.scratch.take("scores", *query.shape[:3], pages.slots)
        flat = product.view(len(raw), -1, pages.slots)
        torch.bmm(query.reshape(*flat.shape[:2], -1), raw.transpose(1, 2), out=flat)
        hide_padding(capped(product, self.layer.softcap), pages)
        for place, document in enumerate(group.documents):
            product[:, place, :, pages.bounds[document]] = -torch.inf
        return importance_to_document(product, pages, None if group.even else group.real[:, rows])
