"""Query documents in groups of similar length, padded to the longest, to be read together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pine.cache import Layout

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
    even       whether all are of one length, so that nothing is padded
    """

    documents: range
    tokens: slice
    row: Tensor
    real: Tensor
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
        return cls(documents, tokens, row.where(real, 0), real, min(own) == max(own))

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
