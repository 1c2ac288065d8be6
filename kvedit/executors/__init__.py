"""Executors: how rows are read on a machine. Speed lives here, and every technique gets it.

torch  the specification that the others are measured against
cpu    loops compiled by Numba, on torch's own threads
gpu    Triton kernels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows
from kvedit.spans import SpanSet


class Executor(Protocol):
    """Something that attends; one for a model, it keeps nothing of a sequence."""

    @property
    def name(self) -> str:
        """Return `torch`, `cpu` or `gpu`, or several of them joined by `+`."""
        ...

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        """Return what the tokens of a forward read.

        query    [batch, heads, query, dim]  not rotated
        rows     of all tokens, in order
        returns  [batch, heads, query, dim]; before the layer's tail it may say anything
        """
        ...

    def mass(self, layer: Layer, query: Tensor, spans: SpanSet) -> Tensor:
        """Return the natural log of each span's weight, positions left out.

        query    [batch, heads, query, dim]  not rotated
        returns  [batch, heads, query, spans] float32: log of the sum of exp(score)
        """
        ...


class Pack(Protocol):
    """Whole prompts of several sequences, read in one pass a layer."""

    @property
    def members(self) -> Sequence[int]:
        """Return which of the forward's sequences these are, ascending."""
        ...

    def read(
        self,
        layer: Layer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Mapping[int, Sequence[Rows]],
    ) -> Tensor:
        """Return what the members' tokens read, one after the other: [1, heads, tokens, dim].

        query, key, value  of all sequences, tokens on one axis, not rotated; batch is 1
        rows               of each sequence, as its reading says for this layer
        """
        ...


class Packer(Protocol):
    """An executor that reads several sequences in fewer passes than one by one."""

    def packs(
        self, rows: Mapping[int, Sequence[Rows]], tokens: Sequence[slice], query: Tensor
    ) -> Sequence[Pack]:
        """Return who is read together in a forward; the others are read alone.

        rows    of each sequence in one layer, before anything is read
        tokens  of each sequence, on the axis that all share
        query   of that layer, [1, heads, query, dim]
        """
        ...

    def step(
        self,
        layer: Layer,
        query: Tensor,
        rows: Mapping[int, Sequence[Rows]],
        tokens: Sequence[slice],
        output: Tensor,
    ) -> Mapping[int, Exception | None]:
        """Write what those sequences read that have a few rows each, in one pass.

        query, output  [1, heads, query, dim]  of all sequences; output as from `runs.blank`
        rows, tokens   as in `packs`, of one layer; who is read in a pack is left out
        returns        who has been read, with the error of one that failed: the others go on
        """
        ...


def wanted(layer: Layer, rows: Sequence[Rows], count: int) -> list[Rows]:
    """Return the rows whose output anybody reads, those before the layer's tail left out.

    count  tokens of the forward

    Rows whose weights somebody is told of are all computed.
    """
    if layer.tail is None:
        return list(rows)
    begin, kept = count - layer.tail, list[Rows]()
    for some in rows:
        ranked = [sight for sight in some.sights if isinstance(sight, Ranked)]
        if any(sight.told is not None for sight in ranked):
            kept.append(some)
        elif some.tokens.stop > begin:
            joint = any(sight.own is not None for sight in ranked)
            kept.append(some if joint else some.last(min(some.count, some.tokens.stop - begin)))
    return kept
