"""A shelf: computed pieces of cache that requests share, within a budget of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, slots=True)
class _Kept:
    piece: object
    size: int


class Shelf:
    """Keeps pieces by key; the least recently used go first. Safe for several threads.

    budget  bytes; 0 keeps nothing

    A key must name all that the piece depends on besides the model: a shelf belongs to one model.
    Pieces are shared, so whoever takes one must not change it.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = Lock()
        self.used = 0  # bytes

    def take(self, key: Hashable) -> object | None:
        """Return a piece, or None if it is not here."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            self._kept.move_to_end(key)
            return kept.piece

    def put(self, key: Hashable, piece: object, size: int) -> None:
        """Keep a piece of some bytes; one that exceeds the whole budget is not kept."""
        if size > self._budget:
            return
        with self._lock:
            self._drop(key)
            while self.used + size > self._budget:
                self._drop(next(iter(self._kept)))
            self._kept[key] = _Kept(piece, size)
            self.used += size

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.used -= kept.size
