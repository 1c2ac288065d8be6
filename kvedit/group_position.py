"""Group positions (arXiv 2505.16983): source and target count their own positions.

So one grows while the other is written, and nothing is read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kvedit.reading import Layer, LayerKind, whole_text
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import Visibility, causal, everything, first


class GroupPositionReading:
    """Two spans: the source sees itself; the target sees what was read of it, and itself.

    offset  position of the first target token, as the source counts
    seen    by target token, how many source tokens it sees; behind the list: all that were read
    """

    def __init__(self, offset: int, seen: Sequence[int] = ()) -> None:
        self._offset, self._seen = offset, tuple(seen)
        self._source = 0  # tokens of the next forward that belong to the source: its first ones
        self._spans: dict[int, tuple[Span, Span]] = {}

    def feed(self, source: int) -> None:
        """Say how many source tokens the next forward begins with; the others are the target's."""
        self._source = source

    def retract(self, count: int) -> None:
        """Forget the last target tokens: the one before a boundary is fed again behind it."""
        for _, target in self._spans.values():
            target.retract(count)

    def raise_offset(self, offset: int) -> None:
        """Let the target begin farther away; no key moves, since queries alone are turned by it.

        raises  ValueError  for one that is lower: what was written would see itself nearer
        """
        if offset < self._offset:
            raise ValueError(
                f"offset must not fall, got {offset} after {self._offset}; begin another sequence"
            )
        self._offset = offset

    @property
    def size(self) -> int:
        """Return the bytes of both groups, of all layers."""
        return sum(span.size for pair in self._spans.values() for span in pair)

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: every layer must see the whole text."""
        return whole_text(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return one forward of everything."""
        return (range(length),)

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Append to both groups; the source never looks at the target."""
        if layer.index not in self._spans:
            self._spans[layer.index] = Span(layer.geometry), Span(layer.geometry)
        source, target = self._spans[layer.index]
        read, written, split = source.length, target.length, self._source
        assert split <= key.shape[2], "a forward has the tokens that it was fed with"
        source.append(key[:, :, :split], value[:, :, :split])
        target.append(key[:, :, split:], value[:, :, split:])
        seen = Sight(source, visible=self._seen_of(source, written, target.length))
        own = Sight(target, self._offset, causal)
        rows = (
            Rows(slice(0, split), read, (Sight(source, visible=causal),)),
            Rows(slice(split, key.shape[2]), self._offset + written, (seen, own)),
        )
        return [each for each in rows if each.count]

    def report(self) -> Mapping[str, Any]:
        """Return how many tokens each group has."""
        source, target = next(iter(self._spans.values()), (Span(None), Span(None)))
        return {"group-positions": {"source": source.length, "target": target.length}}

    def _seen_of(self, source: Span, written: int, length: int) -> Visibility:
        """Return which source tokens the target's from `written` to before `length` see."""
        counts = list(self._seen[written:length])
        if not counts:
            return everything
        counts += [source.length] * (length - written - len(counts))
        return first(counts[0] if len(counts) == 1 else torch.tensor(counts))
