"""How the loops cut one prompt: where documents lie, and what one thread reads at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

PIECE = 256  # tokens that one thread reads at a time: keys of 64 dimensions fill its nearest cache


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The cut of one prompt, the same for all layers and decode steps; everything is int64.

    begins   [documents + 1] first slot of each document, and one beyond the last
    lengths  [documents] tokens
    inside   how many pieces hold documents
    """

    begins: Tensor
    lengths: Tensor
    inside: int
    _pieces: list[Tensor] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def of(cls, begins: Sequence[int], lengths: Sequence[int]) -> Cut:
        """Cut documents that begin at given slots."""
        inside = sum(-(-length // PIECE) for length in lengths)
        return cls(torch.tensor(begins), torch.tensor(lengths), inside)

    def pieces(self, outside: int) -> Tensor:
        """Return pieces of the documents, then of `outside` tokens or some more.

        returns  [pieces, 3] document, or -1, first slot, and slots

        Documents of 300 and 10 tokens at slots 0 and 300, and 5 tokens outside: 0 0 256, 0 256 44,
        1 300 10, -1 0 256.
        """
        count = self.inside + -(-outside // PIECE)
        if not self._pieces or len(self._pieces[0]) != count:
            spans = zip(self.begins[:-1].tolist(), self.lengths.tolist(), strict=True)
            rows = [
                (document, begin + at, min(PIECE, length - at))
                for document, (begin, length) in enumerate(spans)
                for at in range(0, length, PIECE)
            ]
            rows += [(-1, at * PIECE, PIECE) for at in range(count - self.inside)]
            self._pieces[:] = [torch.tensor(rows)]
        return self._pieces[0]
