"""A text that is edited, as slots: what stays where it was computed appears where it is now.

A slot holds one token's key and value. Its number is the place in the frame for which the key is
rotated, so a piece, tokens side by side in text and slots, is a span, and an edit moves where
pieces appear: no key (PIE, arXiv 2407.03157, section 3.2, turns the keys instead).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from kvedit.diff import Hunk, apply

T = TypeVar("T")

MOST_PIECES = 16  # more of them slow every reading down
WASTE = 1024  # slots that nobody reads, beside as many as there are tokens; more are too many


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens side by side in text and slots: `count` of them, the first in `slot`."""

    slot: int
    count: int

    @property
    def end(self) -> int:
        """Return the slot behind the last."""
        return self.slot + self.count


class Layout:
    """Where a text's tokens lie.

    pieces  in the order of the text

    A text of 9 tokens is one piece, (0, 9). With 2 put at 4 for one it is (0, 4) (9, 2) (5, 4);
    with those gone again, and one for them, (0, 4) (4, 1) (5, 4), which is (0, 9).
    """

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.length = 0

    @property
    def used(self) -> int:
        """Return the slot behind all pieces; what lies there is free."""
        return max((piece.end for piece in self.pieces), default=0)

    @property
    def scattered(self) -> bool:
        """Return whether it is time to lay the text out anew."""
        return len(self.pieces) > MOST_PIECES or self.used > 2 * self.length + WASTE

    def append(self, count: int) -> None:
        """Add tokens at the end."""
        self.apply((Hunk(self.length, self.length, (0,) * count),))

    def apply(self, changes: Sequence[Hunk]) -> None:
        """Cut tokens out, and give new ones a slot each: what follows them stays where it lies.

        New tokens lie right behind those before them, where there is room: where as many were cut
        out, where others were put in last, or at the end. So typing is one piece.
        """
        kept, done = list[list[Piece]](), 0
        for hunk in changes:
            kept.append(list(self.between(done, hunk.start)))
            done = hunk.stop
        kept.append(list(self.between(done, self.length)))
        taken = sorted(piece.slot for pieces in kept for piece in pieces)
        end = max((piece.end for pieces in kept for piece in pieces), default=0)
        found = list[Piece]()
        for pieces, hunk in zip(kept, changes, strict=False):
            found += pieces
            if hunk.ids:
                slot = found[-1].end if found else 0
                after = bisect_left(taken, slot)
                if after < len(taken) and taken[after] < slot + len(hunk.ids):
                    slot = end
                found.append(Piece(slot, len(hunk.ids)))
                insort(taken, slot)
                end = max(end, found[-1].end)
        self.pieces = list(_joined([*found, *kept[-1]]))
        self.length += sum(hunk.change for hunk in changes)

    def between(self, first: int, last: int) -> Iterator[Piece]:
        """Yield the pieces of the tokens from first to before last."""
        start = 0
        for piece in self.pieces:
            low, high = max(first - start, 0), min(last - start, piece.count)
            if low < high:
                yield Piece(piece.slot + low, high - low)
            start += piece.count
            if start >= last:
                return

    def renew(self) -> None:
        """Say that the text was laid out anew: token n in slot n."""
        self.pieces = [Piece(0, self.length)] if self.length else []


class Record:
    """What each token was computed behind, and so what its key and value still mean.

    A text is told by a hash of its ids, before each token; undoing an edit makes what follows right
    again. What lies in the cache is

    exact     as if all of the text were computed now
    stale     not so: computed behind another text, or behind tokens that were stale themselves
    outdated  those of the stale that were computed behind another text
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._before: list[int] = [0]  # hash of the text up to each token; and of all
        self._behind: list[int | None] = []  # of what it was computed behind; None = not yet
        self._clean: list[bool] = []  # whether that was exact
        self._stale: list[int] = []
        self._unknown = -2  # the name given last: of -1 and -2 Python makes one hash

    @property
    def stale(self) -> tuple[int, ...]:
        """Return the indices of stale tokens, ascending."""
        return tuple(self._stale)

    @property
    def outdated(self) -> tuple[int, ...]:
        """Return the indices of outdated tokens, ascending."""
        return tuple(index for index in self._stale if self._behind[index] != self._before[index])

    @property
    def first_stale(self) -> int | None:
        """Return the index of the first stale token."""
        return self._stale[0] if self._stale else None

    def append(self, count: int) -> None:
        """Add tokens that nobody names: each is like no other."""
        names = range(self._unknown - 1, self._unknown - count - 1, -1)
        self._unknown -= count
        self._add(names)
        self._behind += [None] * count
        self._clean += [False] * count

    def apply(self, changes: Sequence[Hunk]) -> None:
        """Follow an edit."""
        if not changes:
            return
        first, fresh = changes[0].start, [(hunk, [None] * len(hunk.ids)) for hunk in changes]
        ids = apply(self._ids, changes)
        self._behind = _spliced(self._behind, fresh)
        self._clean = _spliced(self._clean, [(hunk, [False] * len(each)) for hunk, each in fresh])
        del self._ids[first:], self._before[first + 1 :]
        self._add(ids[first:])
        self._stale = [
            index
            for index, (behind, clean) in enumerate(zip(self._behind, self._clean, strict=True))
            if behind is not None and not (clean and behind == self._before[index])
        ]

    def computed(self, now: Sequence[int]) -> None:
        """Take note that some tokens, ascending, were computed, each behind all before it."""
        if self._stale:
            again = set(now)
            self._stale = [index for index in self._stale if index not in again]
        first = self._stale[0] if self._stale else len(self._ids)
        for index in now:
            self._behind[index] = self._before[index]
            self._clean[index] = index < first
        tainted = [index for index in now if index > first]
        if tainted:
            self._stale = sorted([*self._stale, *tainted])

    def _add(self, ids: Sequence[int]) -> None:
        hashes = accumulate(ids, lambda before, one: hash((before, one)), initial=self._before[-1])
        next(hashes)
        self._ids += ids
        self._before += hashes


def _joined(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield pieces, those as one that lie side by side: they appear side by side as well."""
    before: Piece | None = None
    for piece in pieces:
        if before is not None and before.end == piece.slot:
            before = Piece(before.slot, before.count + piece.count)
            continue
        if before is not None:
            yield before
        before = piece
    if before is not None:
        yield before


def _spliced(old: Sequence[T], new: Sequence[tuple[Hunk, Sequence[T]]]) -> list[T]:
    """Put a list of its own in the place of each hunk."""
    found, done = list[T](), 0
    for hunk, fresh in new:
        found += old[done : hunk.start]
        found += fresh
        done = hunk.stop
    return [*found, *old[done:]]
