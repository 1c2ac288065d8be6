"""Readings side by side: the tokens of several sequences in one forward of the model.

All that a model does between its attention layers, it does token by token. So the tokens of many
sequences stand one after the other on the query axis, and each sequence's reading gets its own.
Readings of one kind may do so in company (`kvedit.reading.Sociable`): the same, in fewer calls.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from kvedit.reading import Company, Layer, Reading, Sociable

log = logging.getLogger(__name__)


class Together:
    """The readings of several sequences, for one forward.

    readings  one per sequence
    lengths   tokens each of them reads in this forward
    failed    by place, the error of a reading that failed; the others go on as if it were not there
    """

    def __init__(self, readings: Sequence[Reading], lengths: Sequence[int]) -> None:
        self.failed: dict[int, Exception] = {}
        self._readings = tuple(readings)
        self._rows = [slice(*ends) for ends in pairwise(accumulate(lengths, initial=0))]
        self._companies: list[Company] | None = None

    def borders(self) -> tuple[int, ...]:
        """Return one forward of everything."""
        return (0,)

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let every reading read its own tokens (see `kvedit.reading.Reading`); batch is 1."""
        pieces = self._in_company(layer, query, key, value)
        if len(pieces) == 1 and len(pieces[0][0]) == len(self._readings):
            return pieces[0][1]
        output, done = torch.empty_like(query), set[int]()
        for members, read in pieces:
            done.update(members)
            own_rows = [self._rows[place] for place in members]
            lengths = [rows.stop - rows.start for rows in own_rows]
            for rows, own in zip(own_rows, read.split_with_sizes(lengths, 2), strict=True):
                output[:, :, rows] = own
        for place, (reading, rows) in enumerate(zip(self._readings, self._rows, strict=True)):
            if place in done:
                continue
            own, *piece = (x[:, :, rows] for x in (output, query, key, value))
            if place not in self.failed:
                try:
                    own.copy_(reading.read(layer, *piece))
                except Exception as error:
                    self.failed[place] = error
            if place in self.failed:
                own.zero_()
        return output

    def report(self) -> Mapping[str, Any]:
        """Return nothing: each sequence's reading speaks for itself."""
        return {}

    def _in_company(
        self, layer: Layer, query: Tensor, key: Tensor, value: Tensor
    ) -> list[tuple[Collection[int], Tensor]]:
        """Return who has read in company, and what. If one fails, its members go on alone."""
        pieces: list[tuple[Collection[int], Tensor]] = []
        try:
            if self._companies is None:
                self._companies = []
                self._companies = self._gather(query)
            for company in self._companies:
                read = company.read(layer, query, key, value)
                pieces.append((company.members, read))
        except Exception:
            log.exception("readings in company failed; each goes on alone")
            self._companies = []
        return pieces

    def _gather(self, query: Tensor) -> list[Company]:
        """Return the companies that the readings form, kind by kind."""
        kinds: dict[type[Reading], dict[int, Reading]] = {}
        for place, reading in enumerate(self._readings):
            kinds.setdefault(type(reading), {})[place] = reading
        return [
            company
            for kind, own in kinds.items()
            if issubclass(kind, Sociable)
            for company in kind.companies(own, self._rows, query)
        ]
