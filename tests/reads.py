"""Random vectors, what a reading and an executor make of them, and the executors that there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import pytest
import torch
from torch import Tensor

from kvedit.executors import Executor
from kvedit.executors.cpu.executor import CpuExecutor
from kvedit.executors.torch import TorchExecutor
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Rows

Vectors = tuple[Tensor, Tensor, Tensor]  # queries, keys and values, not rotated

EXECUTORS = (TorchExecutor(), CpuExecutor())
each_executor = pytest.mark.parametrize("executor", EXECUTORS, ids=lambda each: each.name)

INV_FREQ = 10000.0 ** (-torch.arange(0, 8, 2).float() / 8)
SCALING = 0.5
HALF = RotaryGeometry(INV_FREQ)
INTERLEAVED = RotaryGeometry(INV_FREQ, "interleaved")

# layers of all kinds, and the width of their heads
LAYERS = [
    pytest.param(Layer(0, HALF, SCALING), 8, id="half"),
    pytest.param(Layer(0, INTERLEAVED, SCALING), 8, id="interleaved"),
    pytest.param(Layer(0, HALF, SCALING), 12, id="half, partial"),
    pytest.param(Layer(0, INTERLEAVED, SCALING), 12, id="interleaved, partial"),
    pytest.param(Layer(0, None, SCALING), 8, id="no positions"),
    pytest.param(Layer(0, HALF, SCALING, softcap=1.5), 8, id="capped"),
]
each_layer = pytest.mark.parametrize(("layer", "dim"), LAYERS)


class Looker(Protocol):
    """As much of a reading as is asked of one in a layer."""

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Cache new keys and values, and say what their tokens look at."""
        ...


def vectors(
    tokens: int,
    seed: int = 0,
    *,
    heads: tuple[int, int] = (4, 2),
    dim: int = 8,
    batch: int = 1,
    scale: float = 1.0,
) -> Vectors:
    """Return seeded ones, [batch, heads or key heads, tokens, dim]."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        scale * torch.randn(batch, tokens, count, dim, generator=generator).transpose(1, 2)
        for count in (heads[0], heads[1], heads[1])
    )
    return query, key, value


def read(
    executor: Executor, reading: Looker, layer: Layer, qkv: Vectors, forwards: Sequence[int]
) -> Tensor:
    """Return what all tokens read in forwards of so many tokens each."""
    assert sum(forwards) == qkv[0].shape[2]
    pieces = []
    for first, last in pairwise(accumulate(forwards, initial=0)):
        query, key, value = (each[:, :, first:last] for each in qkv)
        pieces.append(executor.read(layer, query, reading.rows(layer, key, value)))
    return torch.cat(pieces, 2)


def close(found: Tensor, expected: Tensor, allowed: float) -> None:
    """Compare numbers that may be off by as much."""
    torch.testing.assert_close(found, expected, atol=allowed, rtol=0)


def ids(seed: int, count: int) -> Tensor:
    """Return random token ids, [1, count]."""
    return torch.randint(128, (1, count), generator=torch.Generator().manual_seed(seed))
