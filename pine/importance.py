"""How important a document is to a query (PINE, section 3.3): attention without positions."""

from __future__ import annotations

import torch
from torch import Tensor

from pine.pages import Pages


def importance(scores: Tensor, pages: Pages) -> Tensor:
    """Return the mean attention that each document's tokens get.

    scores   [..., slots] float32, from un-rotated queries and keys; -inf where a slot is padding
    returns  [..., documents]: softmax over all slots, summed per document, over its length
    """
    weights = torch.softmax(scores, -1)
    return pages.per_document(weights) / pages.lengths


def importance_to_document(scores: Tensor, pages: Pages) -> Tensor:
    """Return the importance of the other documents to one query document, over all its tokens.

    scores   [batch, heads, query, slots] as in `importance`; query = tokens of the query document,
             whose own slots are -inf: they do not compete
    returns  [batch, heads, documents]; the query document's own entry is 0
    """
    weights = torch.softmax(scores, -1).sum(-2)
    return pages.per_document(weights) / pages.lengths
