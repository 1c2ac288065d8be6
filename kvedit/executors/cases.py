"""What executors are measured on: random tokens that several readings look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from kvedit.diff import Hunk
from kvedit.edited import EditedReading
from kvedit.executors import Executor
from kvedit.group_position import GroupPositionReading
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.pages import Pages
from kvedit.plain import PlainReading
from kvedit.reading import Layer
from kvedit.sight import Ranked, Rows, Sight, Sights
from kvedit.spans import Span, SpanSet
from kvedit.visibility import causal

SEED = 9
MOST_HEADS = 2  # key heads: all are read alike


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What the attention layers of a model are like, as far as an executor may mind.

    layer            with the model's geometry, scaling and soft cap
    heads, kv_heads  query heads and key heads
    dim              dimensions of a head
    """

    layer: Layer
    heads: int
    kv_heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device


class Looking(Protocol):
    """As much of a reading as is measured here."""

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Cache new keys and values, and say what their tokens look at."""
        ...


def outputs(executor: Executor, case: str, shape: Shape) -> Iterator[Tensor]:
    """Yield what random tokens read, forward by forward; the same ones for every executor.

    case  one of `CASES`
    """
    make, forwards = CASES[case]
    reading, generator = make(), torch.Generator().manual_seed(SEED)
    for count in forwards:
        query, key, value = _vectors(shape, count, generator)
        yield executor.read(shape.layer, query, reading.rows(shape.layer, key, value))


def masses(executor: Executor, shape: Shape) -> Tensor:
    """Return how an executor weighs a random set, [1, heads, query, spans]."""
    sizes = (5, 9, 1, 30)
    query, key, value = _vectors(shape, sum(sizes), torch.Generator().manual_seed(SEED))
    spans = SpanSet(Pages(sizes, key.device), shape.layer.geometry)
    spans.fill(key, value)
    return executor.mass(shape.layer, query, spans)


def _vectors(shape: Shape, count: int, generator: torch.Generator) -> list[Tensor]:
    """Return random queries, keys and values of a layer."""
    kv_heads, group = min(shape.kv_heads, MOST_HEADS), shape.heads // shape.kv_heads
    # scores of some size, so that spans differ in weight by more than rounding
    scale = 2 / shape.layer.scaling / shape.dim**0.5
    return [
        (factor * torch.randn(1, heads, count, shape.dim, generator=generator))
        .to(shape.dtype)
        .to(shape.device)
        for heads, factor in ((kv_heads * group, scale), (kv_heads, 1), (kv_heads, 1))
    ]


class RankedSet:
    """A prefix, spans that rank each other, and rows behind them that rank for themselves."""

    def __init__(self, prefix: int, sizes: Sequence[int]) -> None:
        self._prefix, self._sizes = prefix, tuple(sizes)
        self._end = prefix + sum(sizes)
        self._known: tuple[tuple[Sight, ...], SpanSet, Span] | None = None

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Take in the whole prompt first, then what follows it."""
        found: list[Rows] = []
        if self._known is None:
            found = self._begin(layer, key, value)
        assert self._known is not None
        before, spans, suffix = self._known
        skipped, place = sum(each.count for each in found), self._end + suffix.length
        suffix.append(key[:, :, skipped:], value[:, :, skipped:])
        behind = Sight(suffix, self._end, causal)
        sights: Sights = (*before, Ranked(spans, self._end), behind)
        return [*found, Rows(slice(skipped, key.shape[2]), place, sights)]

    def _begin(self, layer: Layer, key: Tensor, value: Tensor) -> list[Rows]:
        prefix, spans = (
            Span(layer.geometry),
            SpanSet(Pages(self._sizes, key.device), layer.geometry),
        )
        prefix.append(key[:, :, : self._prefix], value[:, :, : self._prefix])
        inside = slice(self._prefix, self._end)
        spans.fill(key[:, :, inside], value[:, :, inside])
        before: tuple[Sight, ...] = (Sight(prefix),) if self._prefix else ()
        self._known = before, spans, Span(layer.geometry)
        found, first = list[Rows](), self._prefix
        if self._prefix:
            found.append(Rows(slice(0, first), 0, (Sight(prefix, visible=causal),)))
        for index, size in enumerate(self._sizes):
            sights: Sights = (*before, Ranked(spans, self._end, own=index))
            found.append(Rows(slice(first, first + size), self._end - size, sights))
            first += size
        return found


class EditedText:
    """A text that is read, then edited in its middle, then healed here and there."""

    def __init__(self) -> None:
        self._reading = EditedReading()
        self._due: Iterator[Sequence[int]] = iter((range(0), (*range(25, 29), 64), range(1, 65, 3)))

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Take in 60 tokens; 5 put in at 20 and 5 others; 22; and what follows."""
        reading = self._reading
        if reading.length == 60:
            reading.edit((Hunk(20, 20, (0,) * 5),))
        reading.heal(next(self._due, ()))
        return reading.rows(layer, key, value)


def _groups() -> GroupPositionReading:
    reading = GroupPositionReading(40, seen=(12, 20, 20, 33))
    reading.feed(33)
    return reading


# what is read, and the tokens of each forward: prompts, pieces, and single tokens
CASES: Mapping[str, tuple[Callable[[], Looking], tuple[int, ...]]] = MappingProxyType(
    {
        "a plain text": (PlainReading, (40, 1, 1, 7, 300, 1)),
        "a window and first tokens": (lambda: LmInfiniteReading(4, 16, 16), (40, 1, 1, 9, 1)),
        "two groups": (_groups, (43,)),
        "an edited text": (EditedText, (60, 10, 22, 1, 3)),
        "a set": (lambda: RankedSet(3, (5, 9, 1, 30)), (3 + 45 + 6, 1, 1, 3)),
        "a set of one": (lambda: RankedSet(0, (7,)), (7 + 2, 1)),
        "a set of two": (lambda: RankedSet(70, (20, 20)), (70 + 40 + 9, 1)),
        "long spans": (lambda: RankedSet(2, (300, 270, 3)), (2 + 573 + 1, 1)),
        "short spans": (lambda: RankedSet(1, (4,) * 12), (1 + 48 + 5, 1)),
    }
)
