"""How the loops cut a set of spans: where they lie, and what one thread reads at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

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
    pieces   [pieces, 3] span, first slot, and slots: spans of 300 and 10 tokens at slots 0 and 300
             are 0 0 256, 0 256 44, 1 300 10
    """

    holder: ReferenceType[Pages]  # weak: the executor forgets a cut with its pages
    begins: Tensor
    lengths: Tensor
    pieces: Tensor
    nearest: dict[int, Tensor] = field(default_factory=dict, repr=False)
    groups: dict[object, list[Group]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, pages: Pages) -> Cut:
        """Cut spans that lie in pages."""
        begins = [slots.start for slots in pages.bounds]
        rows = [
            (span, begin + at, min(PIECE, length - at))
            for span, (begin, length) in enumerate(zip(begins, pages.sizes, strict=True))
            for at in range(0, length, PIECE)
        ]
        ends = torch.tensor([*begins, pages.slots])
        return cls(ref(pages), ends, torch.tensor(pages.sizes), torch.tensor(rows))

    @property
    def pages(self) -> Pages:
        """Return the pages that are cut; whoever reads holds them."""
        pages = self.holder()
        assert pages is not None, "a set that is read holds its pages"
        return pages

    def nearest_to(self, end: int) -> Tensor:
        """Return the position of each token of the spans when its span ends at `end`: [tokens]."""
        if end not in self.nearest:
            inside = self.pages.place[self.pages.slot_of]
            self.nearest[end] = end - self.lengths.repeat_interleave(self.lengths) + inside
        return self.nearest[end]
