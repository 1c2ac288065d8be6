"""Spans that ask, in groups of similar length, padded to the longest, to be read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BUDGET = 1 << 21  # numbers of turned keys, or of scores, held at once: 8 MB, near the cache
ROWS = 128  # rows of a span that one step reads at least, where they are held at once
WASTE = 2  # rows of a group, padded, over its tokens: at most


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Consecutive spans whose tokens ask together, padded to the longest.

    spans   their indices, a range
    tokens  the rows of their tokens, counted from the first span
    row     [spans, longest] int64, the row of each token among `tokens`; padding repeats 0
    real    [spans, longest] bool, False at padding
    even    whether all are of one length, so that nothing is padded
    """

    spans: range
    tokens: slice
    row: Tensor
    real: Tensor
    even: bool

    @classmethod
    def of(cls, sizes: Sequence[int], spans: range) -> Group:
        """Group some of the spans of given sizes, tokens."""
        own = sizes[spans.start : spans.stop]
        lengths = torch.tensor(own)
        before = sum(sizes[: spans.start])
        index = torch.arange(max(own))
        real = index < lengths[:, None]
        row = (lengths.cumsum(0) - lengths)[:, None] + index
        tokens = slice(before, before + sum(own))
        return cls(spans, tokens, row.where(real, 0), real, min(own) == max(own))

    def gather(self, rows: Tensor) -> Tensor:
        """Take all tokens to this group's padded form.

        rows     [heads, tokens, dim] of all spans
        returns  [heads, spans, longest, dim]
        """
        own = rows[:, self.tokens]
        if not self.even:
            own = own[:, self.row.flatten()]
        return own.view(len(own), *self.row.shape, -1)

    def scatter(self, padded: Tensor) -> Tensor:
        """Take the padded form back to tokens."""
        flat = padded.flatten(1, 2)
        return flat if self.even else flat[:, self.real.flatten().nonzero().flatten()]


def groups(sizes: Sequence[int], per_span: int, budget: int) -> list[Group]:
    """Return all spans in groups that fit a budget of numbers.

    per_span  numbers of turned keys that one asking span needs
    """
    found, first, most = list[Group](), 0, max(1, budget // max(1, per_span))
    for last in range(1, len(sizes) + 1):
        following = sizes[first : last + 1]
        fits = len(following) <= most and len(following) * max(following) <= WASTE * sum(following)
        if last == len(sizes) or not fits:
            found.append(Group.of(sizes, range(first, last)))
            first = last
    return found
