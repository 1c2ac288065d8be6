"""Where documents appear: sorted by importance, the most important nearest to the query."""

from __future__ import annotations

from torch import Tensor


def nearest_first(importance: Tensor) -> Tensor:
    """Return document indices by rank; rank 0 is nearest.

    importance  [..., documents]
    returns     [..., documents] int64; ties keep the canonical order of the documents
    """
    return importance.argsort(dim=-1, descending=True, stable=True)


def starts(order: Tensor, lengths: Tensor, end: int) -> Tensor:
    """Return the position at which each document appears to start.

    order    [..., documents] as from `nearest_first`
    lengths  [documents] tokens
    end      the position after the nearest document's last token
    returns  [..., documents] int64, by document; with lengths 3, 5 and order 1, 0 and end 10: 2, 5
    """
    reach = lengths[order].cumsum(-1)
    return reach.new_empty(order.shape).scatter_(-1, order, end - reach)
