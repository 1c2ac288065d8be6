"""Layers on several devices that are not read best by one executor: each gets its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kvedit.executors import Executor
from kvedit.reading import Layer
from kvedit.sight import Rows
from kvedit.spans import SpanSet


class ByDevice:
    """Lets the executor of the queries' device read.

    executors  by device, of all devices that layers are on

    It packs nothing: a pack goes through all layers, whatever they are on.
    """

    def __init__(self, executors: Mapping[torch.device, Executor]) -> None:
        self._executors = dict(executors)

    @property
    def name(self) -> str:
        """Return the names of all, as in `cpu+gpu`."""
        return "+".join(sorted({each.name for each in self._executors.values()}))

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        """Attend (see `kvedit.executors.Executor`)."""
        return self._executors[query.device].read(layer, query, rows)

    def mass(self, layer: Layer, query: Tensor, spans: SpanSet) -> Tensor:
        """Weigh spans (see `kvedit.executors.Executor`)."""
        return self._executors[query.device].mass(layer, query, spans)
