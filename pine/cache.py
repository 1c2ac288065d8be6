"""What PINE keeps of a prompt: where it is cut, and each layer's keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.rotary import RotaryGeometry, turn
from kvedit.spans import Span
from pine.pages import Pages
from pine.segments import Segments


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where a prompt is cut; the same for all layers.

    prefix   tokens before the documents
    lengths  tokens of each document
    pages    the documents' slots
    """

    prefix: int
    lengths: tuple[int, ...]
    pages: Pages

    @classmethod
    def of(cls, segments: Segments, device: torch.device) -> Layout:
        """Lay out a prompt."""
        pages = Pages.of(segments.lengths, device)
        return cls(len(segments.prefix), segments.lengths, pages)

    @property
    def end(self) -> int:
        """Return the position of the first suffix token."""
        return self.prefix + sum(self.lengths)

    @property
    def documents(self) -> slice:
        """Return the rows of the document tokens."""
        return slice(self.prefix, self.end)

    def frame(self, length: int) -> Tensor:
        """Return the position of each prompt token in its own span's frame, [length] tokens."""
        device = self.pages.place.device
        prefix = torch.arange(self.prefix, device=device)
        suffix = torch.arange(self.end, length, device=device)
        return torch.cat([prefix, self.pages.place[self.pages.slot_of], suffix])


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """What one layer keeps.

    outside  prefix and suffix, one span: both keep their positions, so they never move apart
    raw      [batch, kv_heads, slots, dim]          document keys not rotated, for importance
    framed   [batch, kv_heads, pages, length, dim]  document keys rotated in their document's frame
    values   [batch, kv_heads, slots, dim]
    """

    outside: Span
    raw: Tensor
    framed: Tensor
    values: Tensor

    @classmethod
    def of(cls, layout: Layout, framed_key: Tensor, key: Tensor, value: Tensor) -> Cached:
        """Cache a whole prompt: [batch, kv_heads, query, dim] each."""
        outside, rows, pages = Span(), layout.documents, layout.pages
        for part in (slice(0, layout.prefix), slice(layout.end, None)):
            outside.append(framed_key[:, :, part], value[:, :, part])
        framed = pages.lay(framed_key[:, :, rows])
        return cls(
            outside,
            pages.lay(key[:, :, rows]),
            framed.view(*framed.shape[:2], -1, pages.length, framed.shape[-1]),
            pages.lay(value[:, :, rows]),
        )

    def append(
        self, layout: Layout, geometry: RotaryGeometry | None, key: Tensor, value: Tensor
    ) -> int:
        """Add suffix tokens, [batch, kv_heads, query, dim]; return the first one's position."""
        start = layout.end + self.outside.length - layout.prefix
        positions = torch.arange(start, start + key.shape[2], device=key.device)
        self.outside.append(turn(geometry, key, positions), value)
        return start
