"""How important a document is to a query (PINE, section 3.3): attention without positions."""

from __future__ import annotations

import torch
from torch import Tensor

from pine.pages import Pages


def importance(scores: Tensor, pages: Pages) -> Tensor:
    """Return the mean attention that each document's tokens get from each query.

    scores   [..., slots] float32, from un-rotated queries and keys; -inf at padding; overwritten
    returns  [..., documents]: softmax over all slots, summed per document, over its length
    """
    return pages.per_document(torch.softmax(scores, -1, out=scores)) / pages.lengths


def importance_to_document(scores: Tensor, pages: Pages, real: Tensor | None) -> Tensor:
    """Return the importance of each document to whole query documents: summed over their tokens.

    scores   [heads, asking, query, slots] as in `importance`; -inf too at a query document's own
             slots, which do not compete; overwritten
    real     [asking, query] bool, False where a query is padding; None = nowhere
    returns  [heads, asking, documents]; the query document's own entry is 0
    """
    weights = torch.softmax(scores, -1, out=scores)
    if real is not None:
        weights.mul_(real[..., None])
    return pages.per_document(weights.sum(-2)) / pages.lengths
