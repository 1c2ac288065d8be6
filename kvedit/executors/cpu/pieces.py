"""How the loops cut a set of spans: where they lie, and what one thread reads at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvedit.pages import Pages

if TYPE_CHECKING:
    from kvedit.executors.cpu.groups import Group

PIECE = 256  # tokens that one thread reads at a time: keys of 64 dimensions fill its nearest cache


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The cut of one set, the same for all layers and decode steps; everything is int64.

    begins   [spans + 1] first slot of each span, and one beyond the last
    lengths  [spans] tokens
    ahead    [tokens] how far each token is from where its span ends, a negative number
    pieces   [pieces, 3] span, first slot, and slots: spans of 300 and 10 tokens at slots 0 and 300
             are 0 0 256, 0 256 44, 1 300 10
    """

    begins: Tensor
    lengths: Tensor
    ahead: Tensor
    pieces: Tensor
    groups: dict[object, list[Group]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, pages: Pages) -> Cut:
        """Cut spans that lie in pages, which are not held: an executor forgets a cut with them."""
        begins = [slots.start for slots in pages.bounds]
        rows = [
            (span, begin + at, min(PIECE, length - at))
            for span, (begin, length) in enumerate(zip(begins, pages.sizes, strict=True))
            for at in range(0, length, PIECE)
        ]
        ends, lengths = torch.tensor([*begins, pages.slots]), torch.tensor(pages.sizes)
        ahead = pages.place[pages.slot_of] - lengths.repeat_interleave(lengths)
        return cls(ends, lengths, ahead, torch.tensor(rows))
