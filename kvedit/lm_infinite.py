"""LM-Infinite (Han et al., arXiv 2308.16137): recent tokens where they are, first ones always near.

What lies between is not seen, so a text has no end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind, between, unreadable
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import beyond, causal, within


class LmInfiniteReading:
    """A ring of recent tokens, and first tokens that appear at a constant distance (section 3).

    first   tokens at the beginning that are always seen
    window  tokens that are seen where they are: the model's trained length
    cap     distance at which the first tokens appear once they have left the window
    chunk   tokens of a prompt that are read in one forward
    slack   tokens that the ring keeps besides: by as many it can always go back

    Layers that are windows already are left as they are.
    """

    def __init__(self, first: int, window: int, cap: int, chunk: int = 512, slack: int = 0) -> None:
        self._first, self._window, self._cap, self._chunk = first, window, cap, chunk
        self._slack, self._back_to = slack, 0
        self._spans: dict[int, tuple[Span, Span]] = {}  # first tokens, raw; and the ring
        self._narrow = PlainReading(slack)

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: no more than what the gate says of a layer."""
        return unreadable(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Cut what is not read of a prompt into chunks: memory is bounded by the window."""
        return between(range(self.length, length, self._chunk), length)

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Append to the ring, which drops what nobody sees any more."""
        if layer.window is not None:
            return self._narrow.rows(layer, key, value)
        if layer.index not in self._spans:
            self._spans[layer.index] = Span(None), Span(layer.geometry)
        first, ring = self._spans[layer.index]
        place, new = ring.length, slice(0, max(self._first - ring.length, 0))
        ring.drop(max(ring.held - self._window - self._slack + 1, 0))
        # the first row behind sees back to the oldest token that is held, and no further
        self._back_to = max(self._back_to, ring.first + self._window - 1 if ring.first else 0)
        first.append(key[:, :, new], value[:, :, new])
        ring.append(key, value)
        sights = [Sight(ring, visible=causal & within(self._window))]
        if ring.length > self._window and first.held:
            sights.append(Sight(first, away=self._cap, visible=beyond(self._window)))
        return (Rows(slice(0, key.shape[2]), place, tuple(sights)),)

    @property
    def length(self) -> int:
        """Return how many tokens it has read."""
        rings = (ring for _, ring in tuple(self._spans.values()))
        return next((ring.length for ring in rings), self._narrow.length)

    @property
    def back_to(self) -> int:
        """Return the least length that it can go back to, besides none at all."""
        return max(self._back_to, self._narrow.back_to)

    @property
    def size(self) -> int:
        """Return the bytes of its cache; any thread may ask."""
        pairs = tuple(self._spans.values())
        return sum(span.buffered for pair in pairs for span in pair) + self._narrow.size

    def rewind(self, length: int) -> None:
        """Forget all but the first tokens (see `kvedit.reading.Rewinding`)."""
        assert self.back_to <= length <= self.length, "a reading goes back to what it still holds"
        for first, ring in self._spans.values():
            ring.retract(ring.length - length)
            first.retract(max(first.held - length, 0))
        if self._narrow.length:
            self._narrow.rewind(length)

    def report(self) -> Mapping[str, Any]:
        """Return how many tokens are out of sight."""
        seen = next(((first, ring) for first, ring in self._spans.values()), None)
        hidden = 0 if seen is None else max(seen[1].length - self._window - seen[0].held, 0)
        return {"lm-infinite": {"out_of_sight": hidden}}
