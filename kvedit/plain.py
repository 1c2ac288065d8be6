"""The plain reading: one span, where it is, causal. The gate compares it with the stock model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kvedit.reading import Layer, LayerKind, unreadable
from kvedit.rotary import RotaryGeometry
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import causal, within


class PlainReading:
    """One span per layer; token n stands at position n and sees what came before it.

    slack    tokens that a layer with a window keeps besides, to go back by
    back_to  least length that it can go back to
    """

    def __init__(self, slack: int = 0) -> None:
        self.back_to = 0
        self._slack = slack
        self._spans: dict[int, Span] = {}

    @classmethod
    def holding(
        cls,
        length: int,
        layers: Mapping[int, tuple[Tensor, Tensor]],
        geometries: Sequence[RotaryGeometry | None],
    ) -> PlainReading:
        """Return a reading that has read some tokens already.

        length      how many
        layers      by layer, keys rotated for their positions and values, [batch, kv_heads, kv,
                    dim] each: of all tokens, or of the last ones, where no more are seen
        geometries  of all layers
        """
        reading = cls()
        for index, (key, value) in layers.items():
            first = length - key.shape[2]
            reading._spans[index] = Span.holding(geometries[index], key, value, first)
        return reading

    @classmethod
    def behind(cls, spans: Mapping[int, Span]) -> PlainReading:
        """Return a reading that has read what spans hold, by layer; none of them changes."""
        reading = cls()
        reading._spans = {index: span.cut(0, span.length) for index, span in spans.items()}
        return reading

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: no more than what the gate says of a layer."""
        return unreadable(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return one forward of everything that is not read."""
        return (range(self.length, length),)

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Append to the span, and look at it causally; through the window, if the layer has one."""
        span = self._spans.get(layer.index)
        if span is None:
            span = self._spans[layer.index] = Span(layer.geometry)
        start, count, visible = span.length, key.shape[2], causal
        if layer.window is not None:
            span.drop(max(span.held - layer.window - self._slack + 1, 0))
            # the first row behind sees back to the oldest token that is held, and no further
            self.back_to = max(self.back_to, span.first + layer.window - 1 if span.first else 0)
            visible = causal & within(layer.window)
        span.append(key, value)
        return (Rows(slice(0, count), start, (Sight(span, visible=visible),)),)

    @property
    def length(self) -> int:
        """Return how many tokens it has read."""
        return next((span.length for span in tuple(self._spans.values())), 0)

    @property
    def size(self) -> int:
        """Return the bytes of its cache; any thread may ask."""
        return sum(span.buffered for span in tuple(self._spans.values()))

    def rewind(self, length: int) -> None:
        """Forget all but the first tokens (see `kvedit.reading.Rewinding`)."""
        assert self.back_to <= length <= self.length, "a reading goes back to what it still holds"
        for span in self._spans.values():
            span.retract(span.length - length)

    def report(self) -> Mapping[str, Any]:
        """Return nothing: the plain reading has nothing to say."""
        return {}
