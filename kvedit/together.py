"""Readings side by side: the tokens of several sequences in one forward of the model.

All that a model does between its attention layers, it does token by token. So the tokens of many
sequences stand one after the other on the query axis, and each sequence's reading gets its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kvedit.reading import Layer, Reading


class Together:
    """The readings of several sequences, for one forward.

    readings  one per sequence
    lengths   tokens each of them reads in this forward
    failed    by place, the error of a reading that failed; the others go on as if it were not there
    """

    def __init__(self, readings: Sequence[Reading], lengths: Sequence[int]) -> None:
        self.failed: dict[int, Exception] = {}
        self._readings = tuple(readings)
        self._lengths = list(lengths)

    def borders(self) -> tuple[int, ...]:
        """Return one forward of everything."""
        return (0,)

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let every reading read its own tokens (see `kvedit.reading.Reading`); batch is 1."""
        output = torch.empty_like(query)
        split = (x.split_with_sizes(self._lengths, 2) for x in (output, query, key, value))
        for place, (own, *piece) in enumerate(zip(*split, strict=True)):
            if place not in self.failed:
                try:
                    own.copy_(self._readings[place].read(layer, *piece))
                except Exception as error:
                    self.failed[place] = error
            if place in self.failed:
                own.zero_()
        return output

    def report(self) -> Mapping[str, Any]:
        """Return nothing: each sequence's reading speaks for itself."""
        return {}
