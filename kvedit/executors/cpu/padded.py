"""Prompts of several sequences in one padded form, with all that does not depend on the layer.

Every prompt gets the same room: the spans of its ranked set, each as long as the longest of all,
its suffix, and last its prefix, so that the rows that see spans moved about stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from kvedit.executors.runs import ranked, whole_set
from kvedit.pages import PAGE_COST
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import causal

HIDDEN = torch.finfo(torch.float32).min  # added to a score; finite, so that a row of it is no NaN


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt around a ranked set, of which nothing is cached; all in tokens.

    prefix   before the set, seen by everybody
    lengths  of the set's spans
    suffix   behind it; each row ranks for itself
    """

    prefix: int
    lengths: tuple[int, ...]
    suffix: int

    @property
    def end(self) -> int:
        """Return the position of the first suffix token."""
        return self.prefix + sum(self.lengths)

    @classmethod
    def of(cls, rows: Sequence[Rows]) -> Prompt | None:
        """Return the prompt that rows are, or None if they are anything else."""
        inside = [each for each in rows if _joint(each)]
        if not inside or not whole_set(inside):
            return None
        asked, first = ranked(inside[0]), rows.index(inside[0])
        before, after = rows[:first], rows[first + len(inside) :]
        made = cls(_count(before), asked.spans.pages.sizes, _count(after))
        prefix, suffix = _span(before, 0), _span(after, made.end)
        seen = [[*prefix]] * len(inside) + [[*prefix, *suffix]] * bool(after)
        own = len(prefix) == len(before) and len(suffix) == len(after)
        alone = own and [_spans(each) for each in rows[first:]] == seen
        return made if alone and asked.spans.fresh and asked.end == made.end else None


def _joint(rows: Rows) -> bool:
    """Return whether rows rank a set for all of them."""
    return any(isinstance(each, Ranked) and each.own is not None for each in rows.sights)


def _count(rows: Sequence[Rows]) -> int:
    return sum(each.count for each in rows)


def _spans(rows: Rows) -> list[Span]:
    return [sight.span for sight in rows.sights if isinstance(sight, Sight)]


def _span(rows: Sequence[Rows], start: int) -> list[Span]:
    """Return the one span that rows are all the tokens of, standing at `start`, or nothing."""
    if len(rows) != 1 or rows[0].place != start:
        return []
    own = [sight for sight in rows[0].sights if isinstance(sight, Sight)][-1:]
    return [
        sight.span
        for sight in own
        if sight.visible is causal and sight.start == start and sight.span.held == rows[0].count
    ]


@dataclass(frozen=True, slots=True)
class Room:
    """How much of everything there is room for, in one prompt.

    spans      of the set, how many
    longest    tokens of each of them
    suffix     tokens
    prefix     tokens
    """

    spans: int
    longest: int
    suffix: int
    prefix: int

    @classmethod
    def of(cls, prompt: Prompt) -> Room:
        """Return the room that a prompt needs."""
        return cls(len(prompt.lengths), max(prompt.lengths), prompt.suffix, prompt.prefix)

    def beside(self, other: Room) -> Room:
        """Return the room that suits two."""
        return Room(
            max(self.spans, other.spans),
            max(self.longest, other.longest),
            max(self.suffix, other.suffix),
            max(self.prefix, other.prefix),
        )

    @property
    def inside(self) -> int:
        """Return the slots of the spans."""
        return self.spans * self.longest

    @property
    def rows(self) -> int:
        """Return the slots of spans and suffix."""
        return self.inside + self.suffix

    @property
    def askers(self) -> int:
        """Return how many sort the spans: each span, each suffix token."""
        return self.spans + self.suffix

    @property
    def slots(self) -> int:
        """Return all slots."""
        return self.rows + self.prefix

    @property
    def work(self) -> int:
        """Return how many scores this takes, a turn of a query counted as some."""
        return self.rows * (self.slots + PAGE_COST * self.spans) + self.prefix**2


@dataclass(frozen=True, slots=True, eq=False)
class _Slots:
    """What all prompts of one room share.

    span   [slots] int64, the span of each slot, then one number for suffix, one for prefix
    index  [slots] int64, the token's place in its span
    seen   [rows, slots] bool, where a row sees a slot that is no padding
    """

    span: Tensor
    index: Tensor
    seen: Tensor

    @classmethod
    def of(cls, room: Room, device: torch.device) -> _Slots:
        """Return the slots of a room, numbered."""
        sizes = [room.longest] * room.spans + [room.suffix, room.prefix]
        counts = torch.tensor(sizes, device=device)
        spans = torch.arange(len(sizes), device=device)
        span = spans.repeat_interleave(counts, output_size=room.slots)
        index = torch.arange(room.slots, device=device) - (counts.cumsum(0) - counts)[span]
        seen = (span[: room.rows, None] != span) | (index[: room.rows, None] >= index)
        seen[: room.inside, room.inside : room.rows] = False  # no span sees the suffix
        return cls(span, index, seen)


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Prompts side by side, and where their tokens stand on the axis that all share.

    Axes: members; slots of a `Room`; rows, the slots of spans and suffix; inside, the slots of
    spans; askers, who sorts spans: each span for all its tokens, each suffix token.

    room      what each member has place for
    token     [members, slots] int64, place on the shared axis; padding repeats the first
    real      [members, slots] bool
    frame     [members, slots] int64, position of a key in its own span's frame
    position  [members, slots] int64, position of a query, its span being nearest
    lengths   [members, spans] int64, 0 where a member has fewer spans
    shares    [members, spans] one over them
    end       [members] int64, position of the first suffix token
    asker     [rows] int64
    nearest   [askers, spans] inf for the asking span itself, else 0
    rivals    [members, rows, inside] 0, or `HIDDEN` where a slot does not compete for a row
    hidden    [members, rows, slots] 0, or `HIDDEN` where a row does not see a slot
    later     [prefix, prefix] 0, or `HIDDEN` where a token comes after a row
    sorts     whether spans have more than one other to sort
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
    def of(cls, prompts: Sequence[Prompt], first: Sequence[int], device: torch.device) -> Padded:
        """Lay prompts out.

        first  the place of each one's first token on the shared axis
        """
        room = reduce(Room.beside, map(Room.of, prompts))
        slots = _Slots.of(room, device)
        counts = torch.tensor([_counts(room, *each) for each in zip(prompts, first, strict=True)])
        start, prefix, suffix, lengths = counts.to(device).split_with_sizes(
            [1, 1, 1, room.spans], 1
        )
        end, zero, none = prefix + lengths.sum(1, keepdim=True), start * 0, lengths * 0
        held = prefix + lengths.cumsum(1) - lengths

        def by_slot(inside: Tensor, suffix: Tensor, prefix: Tensor) -> Tensor:
            return torch.cat((inside, suffix, prefix), 1)[:, slots.span]

        real = slots.index < by_slot(lengths, suffix, prefix)
        seen = slots.seen & real[:, None]
        span, own = slots.span, torch.eye(room.askers, room.spans, device=device).bool()
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
            asker=torch.where(span < room.spans, span, room.spans + slots.index)[: room.rows],
            nearest=torch.zeros(own.shape, device=device).masked_fill_(own, torch.inf),
            rivals=_added(seen[..., : room.inside] & others),
            hidden=_added(seen),
            later=_added(torch.ones((room.prefix,) * 2, device=device).bool().tril()),
            sorts=any(len(each.lengths) > 2 for each in prompts),
            reach=max(each.end for each in prompts) + max(room.longest, room.suffix),
        )


def _counts(room: Room, prompt: Prompt, first: int) -> list[int]:
    """Return where a prompt begins, and its tokens: prefix, suffix, each span."""
    lengths = prompt.lengths + (0,) * (room.spans - len(prompt.lengths))
    return [first, prompt.prefix, prompt.suffix, *lengths]


def _added(visible: Tensor) -> Tensor:
    """Return what to add to scores: adding is faster than filling."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, HIDDEN)
