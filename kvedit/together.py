"""Readings side by side: the tokens of several sequences in one forward of the model.

All that a model does between its attention layers, it does token by token. So the tokens of many
sequences stand one after the other on the query axis, and each sequence's reading gets its own. An
executor may read several of them in one pass (`kvedit.executors.Packer`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from torch import Tensor

from kvedit.executors import Executor, Pack
from kvedit.executors.runs import blank
from kvedit.reading import Layer, Reading
from kvedit.sight import Rows

log = logging.getLogger(__name__)


class Alone:
    """The reading of one sequence, for one forward.

    Both this and `Together` are what the door calls in each layer: a reader.
    """

    def __init__(self, reading: Reading, executor: Executor) -> None:
        self._reading = reading
        self._executor = executor

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what the tokens read.

        query       [batch, heads, query, dim]     not rotated
        key, value  [batch, kv_heads, query, dim]  not rotated
        returns     [batch, heads, query, dim]
        """
        return self._executor.read(layer, query, self._reading.rows(layer, key, value))


class Together:
    """The readings of several sequences, for one forward.

    readings  one per sequence
    lengths   tokens each of them reads in this forward
    failed    by sequence, the error of a reading that failed; the others go on as if it were not
              there
    """

    def __init__(
        self, readings: Sequence[Reading], lengths: Sequence[int], executor: Executor
    ) -> None:
        self.failed: dict[int, Exception] = {}
        self._readings = tuple(readings)
        self._lengths = list(lengths)
        self._tokens = [slice(*ends) for ends in pairwise(accumulate(lengths, initial=0))]
        self._executor = executor
        self._packs: list[Pack] | None = None

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let every sequence read its own tokens (see `Alone.read`); batch is 1."""
        rows = self._rows(layer, key, value)
        packed = self._packed(layer, (query, key, value), rows)
        if len(packed) == 1 and len(packed[0][0]) == len(self._readings):
            return packed[0][1]
        output, done = blank(query), set[int]()
        for members, read in packed:
            done.update(members)
            own = [self._tokens[index] for index in members]
            lengths = [tokens.stop - tokens.start for tokens in own]
            for tokens, part in zip(own, read.split_with_sizes(lengths, 2), strict=True):
                output[:, :, tokens] = part
        done |= self._stepped(layer, query, rows, done, output)
        for index, tokens in enumerate(self._tokens):
            if index not in done:
                self._alone(layer, query, rows.get(index), index, output[:, :, tokens])
        return output

    def _rows(self, layer: Layer, key: Tensor, value: Tensor) -> dict[int, Sequence[Rows]]:
        """Return each sequence's rows; one whose reading fails has none."""
        rows: dict[int, Sequence[Rows]] = {}
        keys, values = (each.split_with_sizes(self._lengths, 2) for each in (key, value))
        for index, reading in enumerate(self._readings):
            if index in self.failed:
                continue
            try:
                rows[index] = reading.rows(layer, keys[index], values[index])
            except Exception as error:
                self.failed[index] = error
        return rows

    def _stepped(
        self,
        layer: Layer,
        query: Tensor,
        rows: Mapping[int, Sequence[Rows]],
        done: set[int],
        output: Tensor,
    ) -> set[int]:
        """Write what sequences read that decode, in one pass, and return which."""
        step = getattr(self._executor, "step", None)
        if step is None:
            return set()
        left = {index: own for index, own in rows.items() if index not in done}
        read: Mapping[int, Exception | None] = step(layer, query, left, self._tokens, output)
        for index, error in read.items():
            if error is not None:
                self.failed[index] = error
                output[:, :, self._tokens[index]].zero_()
        return set(read)

    def _alone(
        self, layer: Layer, query: Tensor, rows: Sequence[Rows] | None, index: int, output: Tensor
    ) -> None:
        """Write what a sequence reads by itself; zeros, if it has failed."""
        if rows is not None:
            try:
                output.copy_(self._executor.read(layer, query[:, :, self._tokens[index]], rows))
            except Exception as error:
                self.failed[index] = error
        if index in self.failed:
            output.zero_()

    def _packed(
        self,
        layer: Layer,
        vectors: tuple[Tensor, Tensor, Tensor],
        rows: Mapping[int, Sequence[Rows]],
    ) -> list[tuple[Sequence[int], Tensor]]:
        """Return who has read in one pass, and what. If one fails, its members go on alone."""
        pieces: list[tuple[Sequence[int], Tensor]] = []
        try:
            if self._packs is None:
                self._packs = []
                packs = getattr(self._executor, "packs", None)
                if packs is not None and len(rows) > 1:
                    self._packs = list(packs(rows, self._tokens, vectors[0]))
            whole = (pack for pack in self._packs if rows.keys() >= set(pack.members))
            pieces.extend((pack.members, pack.read(layer, *vectors, rows)) for pack in whole)
        except Exception:
            log.exception("prompts in one pass failed; each goes on alone")
            self._packs = []
        return pieces
