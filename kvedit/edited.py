"""The reading of a text that is edited: what an edit leaves is kept, and appears where it is now.

PIE (arXiv 2407.03157, section 3.2): the new tokens are computed behind what stands before them, and
what follows is moved: its positions are right, but it still says what the old text made it say. So
any of it can be computed again ("healed"), in one pass with the new tokens, or later; which, is
decided by `kvedit.healing`.

    rows of                 see
    tokens that are due     each piece where it is now, up to themselves

A pass puts what it computes into the tokens' slots before anybody looks: a row sees what is
computed with it, and of what is not, what was computed last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kvedit.diff import Hunk
from kvedit.edit import Layout, Piece, Record
from kvedit.reading import Layer, LayerKind, whole_text
from kvedit.sight import Rows, Sight
from kvedit.slots import Slots
from kvedit.visibility import Visibility, causal, everything, first

# runs of tokens that are due are read one by one; of more than so many, all rows are read in one
# product, for which the text must be one piece: laying it out anew costs less than reading pieces
MOST_RUNS = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What one piece, or as much of it as rows see, is to them (see `kvedit.sight.Sight`).

    piece  the slots that are seen
    """

    piece: Piece
    start: int | Tensor
    visible: Visibility


@dataclass(slots=True, eq=False)
class _Pass:
    """One forward.

    slots   of its tokens
    looks   rows, and what they look at
    layers  that have had it
    """

    slots: list[Piece]
    looks: list[tuple[Rows, list[_Look]]]
    layers: set[int] = field(default_factory=set)


class EditedReading:
    """The cache of one text that is edited.

    due    indices of the tokens that the next forward is fed, ascending; a forward may also be fed
           only the first of them, and then the next, or all of them and tokens that follow the text
    edits  since all of the text was exact last

    Whoever feeds it keeps the ids. To edit: `edit` the text, perhaps `heal` some of it, feed what
    is due. To predict, the last token must be among what is fed: `heal` it where it is not.
    """

    def __init__(self) -> None:
        self.due: tuple[int, ...] = ()
        self.edits = 0
        self._layout = Layout()
        self._record = Record()
        self._slots: dict[int, Slots] = {}
        self._pass: _Pass | None = None

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: every layer must see the whole text.

        Through a window, tokens that were hidden come back when others before them go.
        """
        return whole_text(layers)

    @property
    def length(self) -> int:
        """Return the tokens of the text."""
        return self._layout.length

    @property
    def stale(self) -> tuple[int, ...]:
        """Return which tokens are not what computing all of the text would make them, ascending."""
        return self._record.stale

    @property
    def outdated(self) -> tuple[int, ...]:
        """Return which of the stale ones have not been computed since the text before changed."""
        return self._record.outdated

    @property
    def stale_from(self) -> int:
        """Return the index of the first stale token: the text before it is exact."""
        first = self._record.first_stale
        return self.length if first is None else first

    @property
    def size(self) -> int:
        """Return the bytes of the cache."""
        return sum(slots.size for slots in self._slots.values())

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return one forward of everything."""
        return (range(length),)

    def edit(self, changes: Sequence[Hunk]) -> None:
        """Make another text of it: what stays is kept, what is new is due.

        changes  ascending, in indices of the text as it is, `due` tokens included
        raises   ValueError  if they overlap, or reach beyond the text
        """
        done = 0
        for hunk in changes:
            if not done <= hunk.start <= hunk.stop <= self.length:
                raise ValueError(
                    f"hunks must ascend within a text of {self.length} tokens, got {hunk.start} "
                    f"to {hunk.stop} behind {done}; find them by kvedit.diff.hunks"
                )
            done = hunk.stop
        changes = [hunk for hunk in changes if hunk.ids or hunk.stop > hunk.start]
        if not changes:
            return
        behind = len(changes) > 1 or changes[-1].stop < self.length
        self._layout.apply(changes)
        self._record.apply(changes)
        self.due = tuple(_due_after(self.due, changes))
        # what is put at the end, or cut off there, makes nothing stale
        self.edits = self.edits + behind if self._record.first_stale is not None else 0

    def feed(self, ids: Sequence[int]) -> None:
        """Add tokens at the end: they are due."""
        self.edit((Hunk(self.length, self.length, tuple(ids)),))

    def heal(self, indices: Sequence[int]) -> None:
        """Let tokens be computed again, with what is due already.

        raises  IndexError  if there are no such tokens
        """
        for index in indices:
            if not 0 <= index < self.length:
                raise IndexError(f"tokens must be of {self.length}, got {index}; name others")
        self.due = tuple(sorted({*self.due, *indices}))

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Cache what is due, or the first of it, and what follows the text; see all before it."""
        if self._pass is None or layer.index in self._pass.layers:
            self._pass = self._begin(key.shape[2], key.device)
        self._pass.layers.add(layer.index)
        slots = self._slots.get(layer.index)
        if slots is None:
            slots = self._slots[layer.index] = Slots(layer.geometry)
        slots.write(self._pass.slots, key, value)
        return [
            Rows(rows.tokens, rows.place, tuple(_sights(slots, looks)))
            for rows, looks in self._pass.looks
        ]

    def report(self) -> Mapping[str, Any]:
        """Return how much of the text is stale, and the edits since nothing was."""
        fraction = len(self._record.stale) / self.length if self.length else 0.0
        return {"pie": {"stale_fraction": fraction, "edits": self.edits}}

    def _begin(self, count: int, device: torch.device) -> _Pass:
        """Begin a forward of so many tokens."""
        more = count - len(self.due)
        if more > 0:
            end = self.length
            self._layout.append(more)
            self._record.append(more)
            self.due += tuple(range(end, end + more))
        now, self.due = self.due[:count], self.due[count:]
        self._record.computed(now)
        if self._record.first_stale is None:
            self.edits = 0
        runs = list(_runs(now))
        if self._layout.scattered or len(runs) > MOST_RUNS:
            for slots in self._slots.values():
                slots.renew(self._layout.pieces)
            self._layout.renew()
        written = [piece for run in runs for piece in self._layout.between(run.start, run.stop)]
        return _Pass(written, list(self._looks(now, runs, device)))

    def _looks(
        self, now: Sequence[int], runs: Sequence[range], device: torch.device
    ) -> Iterator[tuple[Rows, list[_Look]]]:
        if len(runs) > MOST_RUNS:
            place = now[-1] - len(now) + 1
            rows = Rows(slice(0, len(now)), place, ())
            yield rows, [_scattered(torch.tensor(now, device=device), place)]
            return
        row = 0
        for run in runs:
            yield Rows(slice(row, row + len(run)), run.start, ()), list(_of_run(self._layout, run))
            row += len(run)


def _of_run(layout: Layout, run: range) -> Iterator[_Look]:
    """Yield what tokens side by side look at: each piece up to the last of them."""
    start = 0
    for piece in layout.between(0, run.stop):
        visible = everything if start + piece.count <= run.start + 1 else causal
        yield _Look(piece, start - piece.slot, visible)
        start += piece.count


def _scattered(now: Tensor, place: int) -> _Look:
    """Return what tokens anywhere look at, as one block of rows that ends where the last one is.

    now    [query] int64, their indices, ascending, in a text that is one piece
    place  of the first row

    Row r stands at `place + r`, and is token `now[r]`, some tokens nearer to the beginning: so to
    it the text appears as many tokens nearer to the end. Tokens 2 5 6 stand at 4 5 6.
    """
    rows = torch.arange(place, place + len(now), device=now.device)
    return _Look(Piece(0, place + len(now)), rows - now, first(now + 1))


def _sights(slots: Slots, looks: Sequence[_Look]) -> Iterator[Sight]:
    for look in looks:
        span = slots.span(look.piece.slot, look.piece.end)
        yield Sight(span, look.start, look.visible)


def _runs(indices: Sequence[int]) -> Iterator[range]:
    """Yield the runs of ascending indices: 1 2 5 gives 1..3, 5..6."""
    begin = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] != indices[end - 1] + 1:
            yield range(indices[begin], indices[end - 1] + 1)
            begin = end


def _due_after(due: Sequence[int], changes: Sequence[Hunk]) -> Iterator[int]:
    """Yield what is due after an edit, ascending: what was due and is left, and what is new."""
    left, moved, number = list(due), 0, 0
    for hunk in changes:
        while number < len(left) and left[number] < hunk.start:
            yield left[number] + moved
            number += 1
        while number < len(left) and left[number] < hunk.stop:
            number += 1
        begin = hunk.start + moved
        yield from range(begin, begin + len(hunk.ids))
        moved += hunk.change
    yield from (index + moved for index in left[number:])
