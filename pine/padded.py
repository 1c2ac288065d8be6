"""Prompts of several sequences in one padded form, with all that does not depend on the layer.

Every prompt gets the same room: its documents, each as long as the longest of all, its suffix, and
last its prefix, so that the rows that see documents moved about stand next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from pine.pages import PAGE_COST
from pine.segments import Segments

HIDDEN = torch.finfo(torch.float32).min  # added to a score; finite, so that a row of it is no NaN


@dataclass(frozen=True, slots=True)
class Room:
    """How much of everything there is place for, in one prompt.

    documents  how many
    longest    tokens of each of them
    suffix     tokens
    prefix     tokens
    """

    documents: int
    longest: int
    suffix: int
    prefix: int

    @classmethod
    def of(cls, segments: Segments) -> Room:
        """Return the room that a prompt needs."""
        lengths = segments.lengths
        return cls(len(lengths), max(lengths), len(segments.suffix), len(segments.prefix))

    def beside(self, other: Room) -> Room:
        """Return the room that suits two."""
        return Room(
            max(self.documents, other.documents),
            max(self.longest, other.longest),
            max(self.suffix, other.suffix),
            max(self.prefix, other.prefix),
        )

    @property
    def inside(self) -> int:
        """Return the slots of the documents."""
        return self.documents * self.longest

    @property
    def rows(self) -> int:
        """Return the slots of documents and suffix."""
        return self.inside + self.suffix

    @property
    def askers(self) -> int:
        """Return how many sort the documents: each document, each suffix token."""
        return self.documents + self.suffix

    @property
    def slots(self) -> int:
        """Return all slots."""
        return self.rows + self.prefix

    @property
    def work(self) -> int:
        """Return how many scores this takes, a turn of a query counted as some."""
        return self.rows * (self.slots + PAGE_COST * self.documents) + self.prefix**2


@dataclass(frozen=True, slots=True, eq=False)
class _Slots:
    """What all prompts of one room share.

    span   [slots] int64, the document of each slot, then one number for suffix, one for prefix
    index  [slots] int64, the token's place in its span
    seen   [rows, slots] bool, where a row sees a slot that is no padding
    """

    span: Tensor
    index: Tensor
    seen: Tensor

    @classmethod
    def of(cls, room: Room, device: torch.device) -> _Slots:
        """Number the slots of a room."""
        sizes = [room.longest] * room.documents + [room.suffix, room.prefix]
        counts = torch.tensor(sizes, device=device)
        spans = torch.arange(len(sizes), device=device)
        span = spans.repeat_interleave(counts, output_size=room.slots)
        index = torch.arange(room.slots, device=device) - (counts.cumsum(0) - counts)[span]
        seen = (span[: room.rows, None] != span) | (index[: room.rows, None] >= index)
        seen[: room.inside, room.inside : room.rows] = False  # no document sees the suffix
        return cls(span, index, seen)


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Prompts side by side, and where their tokens stand on the axis that all share.

    Axes: members; slots of a `Room`; rows, the slots of documents and suffix; inside, the slots of
    documents; askers, who sorts documents: each document for all its tokens, each suffix token.

    room      what each member has place for
    token     [members, slots] int64, place on the shared axis; padding repeats the first
    real      [members, slots] bool
    frame     [members, slots] int64, position of a key in its own span's frame
    position  [members, slots] int64, position of a query, its document being nearest
    lengths   [members, documents] int64, 0 where a member has fewer documents
    shares    [members, documents] one over them
    end       [members] int64, position of the first suffix token
    asker     [rows] int64
    nearest   [askers, documents] inf for the asking document itself, else 0
    rivals    [members, rows, inside] 0, or `HIDDEN` where a slot does not compete for a row
    hidden    [members, rows, slots] 0, or `HIDDEN` where a row does not see a slot
    later     [prefix, prefix] 0, or `HIDDEN` where a token comes after a row
    sorts     whether documents have more than one other to sort
    reach     all positions lie below
    """

    room: Room
    token: Tensor
    real: Tensor
    frame: Tensor
    position: Tensor
    lengths: Tensor
    shares: Tensor
    end: Tensor
    asker: Tensor
    nearest: Tensor
    rivals: Tensor
    hidden: Tensor
    later: Tensor
    sorts: bool
    reach: int

    @classmethod
    def of(cls, prompts: Sequence[Segments], first: Sequence[int], device: torch.device) -> Padded:
        """Lay prompts out.

        first  the place of each one's first token on the shared axis
        """
        room = reduce(Room.beside, map(Room.of, prompts))
        slots = _Slots.of(room, device)
        counts = torch.tensor([_counts(room, *each) for each in zip(prompts, first, strict=True)])
        start, prefix, suffix, lengths = counts.to(device).split_with_sizes(
            [1, 1, 1, room.documents], 1
        )
        end, zero, none = prefix + lengths.sum(1, keepdim=True), start * 0, lengths * 0
        held = prefix + lengths.cumsum(1) - lengths

        def by_slot(documents: Tensor, suffix: Tensor, prefix: Tensor) -> Tensor:
            return torch.cat((documents, suffix, prefix), 1)[:, slots.span]

        real = slots.index < by_slot(lengths, suffix, prefix)
        seen = slots.seen & real[:, None]
        span, own = slots.span, torch.eye(room.askers, room.documents, device=device).bool()
        others = span[: room.rows, None] != span[: room.inside]
        return cls(
            room,
            token=start + (by_slot(held, end, zero) + slots.index).where(real, 0),
            real=real,
            frame=by_slot(none, end, zero) + slots.index,
            position=by_slot(end - lengths, end, zero) + slots.index,
            lengths=lengths,
            shares=1 / lengths.clamp(min=1),
            end=end[:, 0],
            asker=torch.where(span < room.documents, span, room.documents + slots.index)[
                : room.rows
            ],
            nearest=torch.zeros(own.shape, device=device).masked_fill_(own, torch.inf),
            rivals=_added(seen[..., : room.inside] & others),
            hidden=_added(seen),
            later=_added(torch.ones((room.prefix,) * 2, device=device).bool().tril()),
            sorts=any(len(each.documents) > 2 for each in prompts),
            reach=max(each.end for each in prompts) + max(room.longest, room.suffix),
        )


def _counts(room: Room, prompt: Segments, first: int) -> list[int]:
    """Return where a prompt begins, and its tokens: prefix, suffix, each document."""
    lengths = prompt.lengths + (0,) * (room.documents - len(prompt.lengths))
    return [first, len(prompt.prefix), len(prompt.suffix), *lengths]


def _added(visible: Tensor) -> Tensor:
    """Return what to add to scores: adding is faster than filling."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, HIDDEN)
