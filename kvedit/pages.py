"""Spans of unequal length in pages of equal length, so that one product reads them all.

A page holds tokens of one span; a span fills one page or more, the last one perhaps partly. One
turn of the query serves all pages of a span, since all its keys stand in one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

PAGE_LENGTHS = (16, 32, 64, 128, 256, 512)  # tokens; candidates beside the spans' own lengths
PAGE_COST = 8  # what one more page costs, in tokens read


class Pages:
    """How some spans lie in pages, for all layers; slots = pages * length.

    sizes     tokens of each span, at least 1
    length    tokens per page
    lengths   [spans] int64, the sizes
    owner     [pages] int64, the span of each page, ascending
    place     [slots] int64, index of the token within its span; for padding, beyond its length
    filled    [slots] bool, or None if there is no padding
    slot_of   [tokens] int64, the slot of each token of the concatenated spans
    bounds    by span, its slots, padding included

    All but the sizes is found when it is first asked for: a prompt that is read in one pass with
    others, and answered by one token, has no need of it.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.sizes = tuple(sizes)
        self._device = device

    @cached_property
    def length(self) -> int:
        """Return the tokens per page."""
        return page_length(self.sizes)

    @cached_property
    def lengths(self) -> Tensor:
        """Return the sizes, [spans] int64."""
        return torch.tensor(self.sizes, device=self._device)

    @cached_property
    def owner(self) -> Tensor:
        """Return the span of each page, [pages] int64."""
        return torch.arange(len(self.sizes), device=self._device).repeat_interleave(self._counts)

    @cached_property
    def place(self) -> Tensor:
        """Return the index of each slot's token within its span, [slots] int64."""
        first = self._counts.cumsum(0) - self._counts  # first page of each span
        step = torch.arange(len(self.owner), device=self._device) - first[self.owner]
        inside = torch.arange(self.length, device=self._device)
        return (step[:, None] * self.length + inside).flatten()

    @cached_property
    def filled(self) -> Tensor | None:
        """Return which slots hold a token, [slots] bool; None = all."""
        return None if self._filled.all() else self._filled

    @cached_property
    def slot_of(self) -> Tensor:
        """Return the slot of each token, [tokens] int64."""
        return self._filled.nonzero().flatten()

    @cached_property
    def bounds(self) -> tuple[slice, ...]:
        """Return the slots of each span."""
        ends = [0, *(self._counts.cumsum(0) * self.length).tolist()]
        return tuple(slice(start, end) for start, end in pairwise(ends))

    @cached_property
    def _counts(self) -> Tensor:
        return (self.lengths + self.length - 1) // self.length

    @cached_property
    def _filled(self) -> Tensor:
        return self.place < self.lengths[self.owner].repeat_interleave(self.length)

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
