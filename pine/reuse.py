"""What requests share: the prefix, and the whole block of documents, computed once.

Only canonical order makes the block worth keeping: the same set comes again in any order, with
another question, and is the same block. A prompt is always cut at the same places, whether or not a
piece is at hand, so that a reply never depends on what was computed before, to the last bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from kvedit.shelf import Shelf
from kvedit.spans import Span
from pine.cache import Cached, fork
from pine.segments import Segments

# below these a forward of its own costs more than it saves; tokens
SMALLEST_PREFIX = 64
SMALLEST_BLOCK = 128


class Reuse:
    """One prompt's pieces on the shelf.

    cuts  where the forwards of the prompt begin, if nothing is at hand; depends on lengths alone
    """

    def __init__(self, segments: Segments, shelf: Shelf | None) -> None:
        self._shelf = shelf
        self._prefix = len(segments.prefix)
        self._end = segments.end
        self._prefix_key = ("pine prefix", segments.prefix)
        self._block_key = ("pine block", segments.prefix, segments.documents)
        cuts = [0]
        if self._prefix >= SMALLEST_PREFIX:
            cuts.append(self._prefix)
        if self._end >= SMALLEST_BLOCK and segments.suffix:
            cuts.append(self._end)
        self.cuts = tuple(cuts)

    def block(self) -> dict[int, Cached] | None:
        """Return each layer's prefix and documents, or None."""
        kept = self._take(self._block_key, self._end)
        if kept is None:
            return None
        return {index: cached.restart(self._prefix) for index, cached in kept.items()}

    def prefix(self) -> dict[int, Span] | None:
        """Return each layer's prefix, or None."""
        kept = self._take(self._prefix_key, self._prefix)
        if kept is None:
            return None
        return {index: fork(span, self._prefix) for index, span in kept.items()}

    def keep(
        self, first: int, last: int, spans: Mapping[int, Span], cached: Mapping[int, Cached]
    ) -> None:
        """Put the piece of a finished forward on the shelf, if it is one that others may take.

        first, last    the forward's tokens
        spans, cached  what each layer holds now
        """
        if self._shelf is None or first not in self.cuts or last not in self.cuts[1:]:
            return
        if last == self._prefix:
            prefix = {index: fork(span, last) for index, span in spans.items()}
            size = sum(span.keys.nbytes + span.values.nbytes for span in prefix.values())
            self._shelf.put(self._prefix_key, prefix, size)
        if last == self._end:
            block = {index: layer.restart(self._prefix) for index, layer in cached.items()}
            size = sum(layer.size for layer in block.values())
            self._shelf.put(self._block_key, block, size)

    def _take(self, key: Hashable, cut: int) -> Any:
        if self._shelf is None or cut not in self.cuts[1:]:
            return None
        return self._shelf.take(key)
