"""Spans that are ranked: how much they weigh, and where that lets them appear (PINE, section 3.3).

What a reading hands to an executor as `Ranked` is placed by these three functions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def importance(mass: Tensor, lengths: Tensor, own: int | None = None) -> Tensor:
    """Return the mean attention that each span's tokens get, positions left out.

    mass     [..., query, spans] natural log of each span's weight, from un-rotated keys
    lengths  [spans] tokens
    own      the span that the queries are part of: it does not compete, what the others get is
             summed over the queries, and it is infinitely important itself; None = each query alone
    returns  [..., query, spans], or with `own` [..., 1, spans]
    """
    if own is None:
        return mass.softmax(-1) / lengths
    index = torch.arange(len(lengths), device=mass.device)
    others = mass.masked_fill(index == own, -torch.inf)
    # alone, a span has no others: no weights to sum
    shares = others.softmax(-1).nan_to_num(0.0) / lengths
    return shares.sum(-2, keepdim=True).masked_fill_(index == own, torch.inf)


def nearest_first(importance: Tensor) -> Tensor:
    """Return the spans by rank; rank 0 is nearest.

    importance  [..., spans]
    returns     [..., spans] int64; ties keep the order in which the spans are held
    """
    return importance.argsort(dim=-1, descending=True, stable=True)


def starts(order: Tensor, lengths: Tensor, end: int) -> Tensor:
    """Return the position at which each span appears to start.

    order    [..., spans] as from `nearest_first`
    lengths  [spans] tokens
    end      the position after the nearest span's last token
    returns  [..., spans] int64, by span; with lengths 3, 5 and order 1, 0 and end 10: 2, 5
    """
    reach = lengths[order].cumsum(-1)
    return reach.new_empty(order.shape).scatter_(-1, order, end - reach)
