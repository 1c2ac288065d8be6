"""What requests share: the prefix, and the whole block of documents, computed once.

Only canonical order makes the block worth keeping: the same set comes again in any order, with
another question, and is the same block. A prompt is always cut at the same places, whether or not a
piece is at hand, so that a reply never depends on what was computed before, to the last bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol, TypeVar, cast

from kvedit.segments import Segments
from kvedit.shelf import Shelf

# below these a forward of its own costs more than it saves; tokens
SMALLEST_PREFIX = 64
SMALLEST_BLOCK = 128


class Piece(Protocol):
    """What one layer keeps of a prompt before its suffix; once read, nothing of it changes."""

    @property
    def size(self) -> int:
        """Return the bytes of what is kept."""
        ...


P = TypeVar("P", bound=Piece)


class Reuse:
    """One prompt's pieces on the shelf.

    kind     of the reading
    numbers  on which its block of documents depends, besides the prompt; its prefix does not
    cuts     where the forwards of the prompt begin, if nothing is at hand; depends on lengths alone
    """

    def __init__(
        self, kind: str, numbers: Hashable, segments: Segments, shelf: Shelf | None
    ) -> None:
        self._shelf = shelf
        self._prefix = len(segments.prefix)
        self._end = segments.end
        self._keys = {
            self._end: (kind, "block", numbers, segments.prefix, segments.documents),
            self._prefix: (kind, "prefix", segments.prefix),
        }
        cuts = [0]
        if self._prefix >= SMALLEST_PREFIX:
            cuts.append(self._prefix)
        if self._end >= SMALLEST_BLOCK and segments.suffix:
            cuts.append(self._end)
        self.cuts = tuple(cuts)

    def at_hand(self, kind: type[P]) -> tuple[dict[int, P], tuple[int, ...]]:
        """Return the pieces that somebody has read before, and the cuts from where they end.

        kind  of the pieces, which the reading has put there
        """
        for cut in (self._end, self._prefix):
            if self._shelf is not None and cut in self.cuts[1:]:
                kept = self._shelf.take(self._keys[cut])
                if kept is not None:
                    left = tuple(each for each in self.cuts if each >= cut)
                    return dict(cast("Mapping[int, P]", kept)), left
        return {}, self.cuts

    def keep(self, first: int, last: int, pieces: Mapping[int, Piece]) -> None:
        """Put the pieces of a finished forward on the shelf, if others may take them.

        first, last  the forward's tokens
        pieces       what each layer holds, which nobody will change
        """
        if self._shelf is None or first not in self.cuts or last not in self.cuts[1:]:
            return
        size = sum(piece.size for piece in pieces.values())
        self._shelf.put(self._keys[last], dict(pieces), size)
