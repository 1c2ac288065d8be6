"""Which documents an answer drew on: the importance that suffix tokens gave them, on average."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class Explanation:
    """Sums what PINE sorts by, over layers, heads and suffix tokens."""

    def __init__(self) -> None:
        self._total: Tensor | None = None  # [documents] float64
        self._rows = 0

    def add(self, importance: Tensor) -> None:
        """Count the importance of documents to suffix tokens, [batch, heads, query, documents]."""
        flat = importance.double().flatten(0, -2)
        added = flat.sum(0)
        if self._total is not None:  # layers may be on other devices
            added = self._total + added.to(self._total.device)
        self._total = added
        self._rows += len(flat)

    def in_order(self, order: Sequence[int]) -> list[float]:
        """Return the mean importance of each document, in the caller's order.

        order    the caller's index of the document at each canonical place
        returns  mean attention per document token, positions left out (see `pine.importance`)
        """
        if self._total is None:
            return []
        means = (self._total / self._rows).tolist()
        return [means[order.index(document)] for document in range(len(order))]
