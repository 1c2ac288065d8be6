"""Random rows and what they look at: spans anywhere, seen in part, and a ranked set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from hypothesis import strategies as st
from reads import HALF, INTERLEAVED, vectors
from torch import Tensor

from kvedit.pages import Pages
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import Span, SpanSet
from kvedit.visibility import Visibility, beyond, causal, everything, first, within

Where = Literal["still", "away", "per head", "per row"]
Seen = Literal["everything", "within", "beyond", "first", "first by row"]
HEADS = (4, 2)


@dataclass(frozen=True)
class Look:
    """One span that rows look at; all in tokens.

    raw      whether its keys are kept without a turn
    held     how many it holds, of which the last ones are `fresh`: nobody has read them yet
    dropped  how many it has dropped before
    at       where it starts, or how far away it is
    """

    where: Where
    seen: Seen
    raw: bool
    held: int
    fresh: int
    dropped: int
    at: int
    number: int

    def sight(
        self, layer: Layer, dim: int, rows: int, seed: int, dtype: torch.dtype = torch.float32
    ) -> Sight:
        """Make the span, and say where it appears."""
        span = Span(None if self.raw else layer.geometry)
        drawn = vectors(self.dropped + self.held, seed, heads=HEADS, dim=dim)
        key, value = (each.to(dtype) for each in drawn[1:])
        old = self.dropped + self.held - self.fresh
        span.append(key[:, :, :old], value[:, :, :old])
        span.drop(self.dropped)
        if span.held:
            assert span.keys.shape[2] == span.held  # somebody has read it
        span.append(key[:, :, old:], value[:, :, old:])
        generator = torch.Generator().manual_seed(seed)
        shape = {"per head": (HEADS[0], 1), "per row": (1, HEADS[0], rows)}.get(self.where)
        start: int | Tensor = self.at
        if shape is not None:
            start = self.at + torch.randint(0, 9, shape, generator=generator)
        if self.where == "away":
            return Sight(span, away=self.at, visible=self._visible(rows, generator))
        return Sight(span, start, self._visible(rows, generator))

    def _visible(self, rows: int, generator: torch.Generator) -> Visibility:
        counts = torch.randint(0, self.held + 2, (rows,), generator=generator)
        return {
            "everything": everything,
            "within": within(self.number),
            "beyond": beyond(self.number),
            "first": first(self.number),
            "first by row": first(counts),
        }[self.seen]


@dataclass(frozen=True)
class Scene:
    """Some rows, what they look at, and a causal span of their own.

    before  tokens of their own span that are there already
    ranked  sizes of the spans of a ranked set, or ()
    end     how far behind the nearest of them the first row stands
    """

    layer: Layer
    dim: int
    count: int
    place: int
    before: int
    looks: tuple[Look, ...]
    ranked: tuple[int, ...] = ()
    behind: int = 0
    seed: int = 0
    dtype: torch.dtype = torch.float32

    @property
    def query(self) -> Tensor:
        """Return the rows' queries, of some size, so that spans differ in weight."""
        return (2 * vectors(self.count, self.seed, heads=HEADS, dim=self.dim)[0]).to(self.dtype)

    def rows(self, tokens: slice | None = None) -> Rows:
        """Make all spans anew, and the rows that look at them."""
        own = Look("still", "everything", False, self.before + self.count, self.count, 0, 0, 0)
        sight = own.sight(self.layer, self.dim, self.count, self.seed + 1, self.dtype)
        sights: list[Sight | Ranked] = [
            look.sight(self.layer, self.dim, self.count, self.seed + 2 + index, self.dtype)
            for index, look in enumerate(self.looks)
        ]
        if self.ranked:
            sights.append(Ranked(self.set(), self.place - self.behind))
        sights.append(replace(sight, start=self.place - self.before, visible=causal))
        return Rows(tokens or slice(0, self.count), self.place, tuple(sights))

    def set(self) -> SpanSet:
        """Make the ranked set."""
        spans = SpanSet(Pages(self.ranked, torch.device("cpu")), self.layer.geometry)
        _, key, value = vectors(sum(self.ranked), self.seed + 50, heads=HEADS, dim=self.dim)
        spans.fill((2 * key).to(self.dtype), value.to(self.dtype))
        return spans


@st.composite
def looks(draw: st.DrawFn, still: bool = False) -> Look:
    """Draw a span; `still` = it does not move by head or row."""
    held = draw(st.integers(1, 40) | st.integers(250, 530))
    return Look(
        draw(
            st.sampled_from(
                ["still", "away"] if still else ["still", "away", "per head", "per row"]
            )
        ),
        draw(st.sampled_from(["everything", "within", "beyond", "first", "first by row"])),
        draw(st.booleans()),
        held,
        draw(st.integers(0, min(held, 6))),
        draw(st.integers(0, 5)),
        draw(st.integers(-30, 300) | st.sampled_from([16380, 20_000])),
        draw(st.integers(1, 60)),
    )


geometries = st.sampled_from([HALF, INTERLEAVED, None])


@st.composite
def layers(draw: st.DrawFn, softcap: bool = True) -> Layer:
    """Draw a layer; `softcap` = its scores may be capped."""
    geometry: RotaryGeometry | None = draw(geometries)
    return Layer(0, geometry, 0.4, draw(st.sampled_from([None, 1.5])) if softcap else None)


@st.composite
def scenes(
    draw: st.DrawFn,
    most: int = 9,
    *,
    still: bool = False,
    softcap: bool = True,
) -> Scene:
    """Draw rows, at most so many; `still` = nothing moves by head or row."""
    ranked = draw(
        st.just(())
        | st.lists(st.integers(1, 30), min_size=1, max_size=5).map(tuple)
        | st.just((300, 7))
    )
    place = draw(st.integers(0, 400) | st.sampled_from([16_380, 100_000]))
    return Scene(
        draw(layers(softcap)),
        draw(st.sampled_from([8, 12])),
        draw(st.integers(1, most)),
        place + sum(ranked) + 10,
        draw(st.integers(0, 300)),
        tuple(draw(st.lists(looks(still), max_size=3))),
        ranked,
        draw(st.integers(0, 9)),
        draw(st.integers(0, 999)),
    )
