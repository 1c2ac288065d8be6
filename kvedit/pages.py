"""Spans of unequal length in pages of equal length, so that one product reads them all.

A page holds tokens of one span; a span fills one page or more, the last one perhaps partly. One
turn of the query serves all pages of a span, since all its keys stand in one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

PAGE_LENGTHS = (16, 32, 64, 128, 256, 512)  # tokens; candidates beside the spans' own lengths
PAGE_COST = 8  # what one more page costs, in tokens read


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Pages:
    """How some spans lie in pages, for all layers; slots = pages * length.

    length    tokens per page
    sizes     tokens of each span
    lengths   [spans] int64, the same
    owner     [pages] int64, the span of each page, ascending
    place     [slots] int64, index of the token within its span; for padding, beyond its length
    filled    [slots] bool, or None if there is no padding
    slot_of   [tokens] int64, the slot of each token of the concatenated spans
    bounds    by span, its slots, padding included
    """

    length: int
    sizes: tuple[int, ...]
    lengths: Tensor
    owner: Tensor
    place: Tensor
    filled: Tensor | None
    slot_of: Tensor
    bounds: tuple[slice, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Pages:
        """Lay out spans of given lengths (tokens, at least 1 each)."""
        page = page_length(lengths)
        sizes = torch.tensor(lengths, device=device)
        counts = (sizes + page - 1) // page
        owner = torch.arange(len(lengths), device=device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts  # first page of each span
        step = torch.arange(len(owner), device=device) - first[owner]
        place = (step[:, None] * page + torch.arange(page, device=device)).flatten()
        filled = place < sizes[owner].repeat_interleave(page)
        slot_of = filled.nonzero().flatten()
        ends = [0, *(counts.cumsum(0) * page).tolist()]
        bounds = tuple(slice(start, end) for start, end in pairwise(ends))
        padded = None if filled.all() else filled
        return cls(page, tuple(lengths), sizes, owner, place, padded, slot_of, bounds)

    @property
    def one_page_each(self) -> bool:
        """Return whether pages and spans are the same."""
        return len(self.owner) == len(self.lengths)

    @property
    def slots(self) -> int:
        """Return how many tokens the pages have room for."""
        return len(self.place)

    def lay(self, tokens: Tensor) -> Tensor:
        """Put the concatenated spans' tokens into their slots; padding is zero.

        tokens   [batch, kv_heads, tokens, dim]
        returns  [batch, kv_heads, slots, dim], contiguous
        """
        if self.filled is None:
            return tokens.contiguous()
        laid = tokens.new_zeros((*tokens.shape[:2], self.slots, tokens.shape[-1]))
        return laid.index_copy_(2, self.slot_of, tokens)

    def per_span(self, weights: Tensor) -> Tensor:
        """Sum over the slots of each span.

        weights  [..., slots], 0 at padding
        returns  [..., spans]
        """
        sums = weights.view(*weights.shape[:-1], len(self.owner), self.length).sum(-1)
        if self.one_page_each:
            return sums
        totals = sums.new_zeros((*sums.shape[:-1], len(self.lengths)))
        return totals.index_add_(-1, self.owner, sums)

    def per_page(self, values: Tensor) -> Tensor:
        """Give each page what its span has: [..., spans] -> [..., pages]."""
        return values if self.one_page_each else values.index_select(-1, self.owner)


def page_length(lengths: Sequence[int]) -> int:
    """Return the page length that wastes least; equal spans fill one page each."""

    def cost(page: int) -> int:
        pages = sum(-(-length // page) for length in lengths)
        return pages * (page + PAGE_COST)

    longest = max(lengths)
    candidates = [longest, *(page for page in PAGE_LENGTHS if page < longest)]
    return min(candidates, key=cost)


def hide_padding(product: Tensor, pages: Pages) -> Tensor:
    """Set the scores of padding to -inf, in place: [..., slots]."""
    return product if pages.filled is None else product.masked_fill_(~pages.filled, -torch.inf)
