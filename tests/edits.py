"""A text behind a door that is edited, and what its cache holds."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from kvedit.diff import Hunk, apply
from kvedit.edited import EditedReading
from kvedit.hf import Door
from kvedit.plain import PlainReading
from kvedit.rotary import turn


class EditedText:
    """Token ids, and their reading, which has read them."""

    def __init__(self, door: Door, ids: Sequence[int]) -> None:
        self.door = door
        self.ids: list[int] = []
        self.reading = EditedReading()
        self.edit((Hunk(0, 0, tuple(ids)),))

    def edit(self, changes: Sequence[Hunk], heal: Sequence[int] = ()) -> Tensor:
        """Edit, compute what is new and what is to be healed, and return the last token's logits.

        heal     indices of the new text
        returns  [vocab]; of the last token that was computed, [0] if none was
        """
        self.reading.edit(changes)
        self.ids = apply(self.ids, changes)
        return self.heal(heal)

    def heal(self, indices: Sequence[int]) -> Tensor:
        """Compute what is due and some other tokens; return as `edit`."""
        self.reading.heal(indices)
        due = self.reading.due
        if not due:
            return torch.zeros(0)
        ids = torch.tensor([[self.ids[index] for index in due]])
        return self.door.forward(ids, self.reading)[0, -1]

    def predict(self) -> Tensor:
        """Feed the last token again, with what is due, and return its logits, [vocab]."""
        return self.heal([len(self.ids) - 1])

    def step(self, token: int) -> Tensor:
        """Feed a token behind the text, as a reading is fed that knows nothing of edits."""
        self.ids.append(token)
        return self.door.forward(torch.tensor([[token]]), self.reading)[0, -1]


def from_scratch(door: Door, ids: Sequence[int], cuts: Sequence[int] = ()) -> Tensor:
    """Return the last token's logits, [vocab], of a text that is read plainly.

    cuts  where forwards begin, besides at 0
    """
    reading, logits = PlainReading(), torch.zeros(0)
    for first, last in zip((0, *cuts), (*cuts, len(ids)), strict=True):
        logits = door.forward(torch.tensor([ids[first:last]]), reading)[0, -1]
    return logits


def held(reading: EditedReading) -> list[tuple[Tensor, Tensor]]:
    """Return by layer the keys as they appear where they are now, and the values.

    returns  [kv_heads, tokens, dim] each, in the text's order
    """
    found = list[tuple[Tensor, Tensor]]()
    for _, slots in sorted(reading._slots.items()):
        keys, values, start = list[Tensor](), list[Tensor](), 0
        for piece in reading._layout.pieces:
            span = slots.span(piece.slot, piece.end)
            shift = torch.tensor(start - piece.slot)
            keys.append(turn(slots.geometry, span.keys.double(), shift))
            values.append(span.values)
            start += piece.count
        found.append((torch.cat(keys, 2)[0], torch.cat(values, 2)[0]))
    return found


def random_changes(draw: random.Random, length: int, vocabulary: int = 128) -> list[Hunk]:
    """Return some hunks of a text: insertions, deletions, replacements, with or without change."""
    found, done = list[Hunk](), 0
    for _ in range(draw.randint(1, 3)):
        start = draw.randint(done, length)
        stop = min(length, start + draw.choice((0, 0, 1, 2, 5)))
        count = draw.choice((0, 1, 2, stop - start, 6))
        found.append(Hunk(start, stop, tuple(draw.randrange(vocabulary) for _ in range(count))))
        done = stop
    return found
