"""What requests share: the prefix, and the whole block of documents, computed once.

Only canonical order makes the block worth keeping: the same set comes again in any order, with
another question, and is the same block. A prompt is always cut at the same places, whether or not a
piece is at hand, so that a reply never depends on what was computed before, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from kvedit.segments import Segments
from kvedit.shelf import Shelf
from kvedit.spans import Span, SpanSet

# below these a forward of its own costs more than it saves; tokens
SMALLEST_PREFIX = 64
SMALLEST_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Piece:
    """What one layer keeps of a prompt before its suffix; once read, nothing of it changes.

    prefix     where a layer reads plainly, all that it has read
    documents  None until they are read, and where a layer reads plainly
    """

    prefix: Span
    documents: SpanSet | None

    @property
    def size(self) -> int:
        """Return the bytes of what is kept: keys, raw ones too, and values."""
        return self.prefix.size + (0 if self.documents is None else self.documents.size)


class Reuse:
    """One prompt's pieces on the shelf.

    layers  that read the documents as a set (see `PineReading`): the prefix depends on none
    cuts    where the forwards of the prompt begin, if nothing is at hand; depends on lengths alone
    """

    def __init__(
        self, segments: Segments, shelf: Shelf | None, layers: tuple[int, int] | None = None
    ) -> None:
        self._shelf = shelf
        self._prefix = len(segments.prefix)
        self._end = segments.end
        self._keys = {
            self._end: ("pine block", layers, segments.prefix, segments.documents),
            self._prefix: ("pine prefix", segments.prefix),
        }
        cuts = [0]
        if self._prefix >= SMALLEST_PREFIX:
            cuts.append(self._prefix)
        if self._end >= SMALLEST_BLOCK and segments.suffix:
            cuts.append(self._end)
        self.cuts = tuple(cuts)

    def at_hand(self) -> tuple[dict[int, Piece], int]:
        """Return the pieces that somebody has read before, and how many tokens they are."""
        for cut in (self._end, self._prefix):
            if self._shelf is not None and cut in self.cuts[1:]:
                kept = self._shelf.take(self._keys[cut])
                if kept is not None:
                    return dict(cast("Mapping[int, Piece]", kept)), cut
        return {}, 0

    def keep(self, first: int, last: int, pieces: Mapping[int, Piece]) -> None:
        """Put the pieces of a finished forward on the shelf, if others may take them.

        first, last  the forward's tokens
        pieces       what each layer holds now
        """
        if self._shelf is None or first not in self.cuts or last not in self.cuts[1:]:
            return
        size = sum(piece.size for piece in pieces.values())
        self._shelf.put(self._keys[last], dict(pieces), size)
