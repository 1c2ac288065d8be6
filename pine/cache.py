"""What PINE keeps of a prompt: where it is cut, and each layer's keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvedit.spans import Span
from pine import cpu, gpu
from pine.cpu.cut import Cut
from pine.gpu.plan import Plan
from pine.pages import Pages
from pine.segments import Segments


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where a prompt is cut; the same for all layers.

    prefix   tokens before the documents
    lengths  tokens of each document
    pages    the documents' slots
    nearest  [tokens] position of each document token when its document is nearest
    plan     how the GPU's kernels cut it, or None
    cut      how the CPU's loops cut it, or None; with neither, torch reads it
    """

    prefix: int
    lengths: tuple[int, ...]
    pages: Pages
    nearest: Tensor
    plan: Plan | None
    cut: Cut | None

    @classmethod
    def of(cls, segments: Segments, query: Tensor) -> Layout:
        """Lay out a prompt that queries of one layer, [batch, heads, query, dim], will read."""
        pages, prefix = Pages.of(segments.lengths, query.device), len(segments.prefix)
        slots = [bounds.start for bounds in pages.bounds]
        plan = gpu.plan_for(query, prefix, segments.lengths, slots)
        nearest = segments.end - pages.lengths.repeat_interleave(pages.lengths)
        nearest += pages.place[pages.slot_of]
        cut = None
        if cpu.available(query):
            cut = Cut.of([*slots, pages.slots], segments.lengths)
        return cls(prefix, segments.lengths, pages, nearest, plan, cut)

    @property
    def end(self) -> int:
        """Return the position of the first suffix token."""
        return self.prefix + sum(self.lengths)

    def frame(self, first: int, last: int) -> Tensor:
        """Return the positions of the tokens from first to last in their own spans' frames.

        returns  [last - first] tokens: prefix and suffix where they are, documents from 0 on
        """
        places = torch.arange(first, last, device=self.pages.place.device)
        inside = slice(max(self.prefix - first, 0), max(self.end - first, 0))
        count = len(places[inside])
        begin = max(first - self.prefix, 0)
        places[inside] = self.pages.place[self.pages.slot_of][begin : begin + count]
        return places


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """What one layer keeps once it has read the documents.

    outside  prefix and suffix, one span: both keep their positions, so they never move apart
    raw      [batch, kv_heads, slots, dim]          document keys not rotated, for importance
    framed   [batch, kv_heads, pages, length, dim]  document keys rotated in their document's frame
    values   [batch, kv_heads, slots, dim]

    Nothing but `outside` ever changes.
    """

    outside: Span
    raw: Tensor
    framed: Tensor
    values: Tensor

    @classmethod
    def of(
        cls, layout: Layout, outside: Span, framed_key: Tensor, key: Tensor, value: Tensor
    ) -> Cached:
        """Cache the documents' tokens, [batch, kv_heads, tokens, dim] each, beside the prefix."""
        pages = layout.pages
        framed = pages.lay(framed_key)
        paged = framed.view(*framed.shape[:2], -1, pages.length, framed.shape[-1])
        return cls(outside, pages.lay(key), paged, pages.lay(value))

    def restart(self, prefix: int) -> Cached:
        """Return the same documents after a copy of the first `prefix` tokens outside."""
        return Cached(fork(self.outside, prefix), self.raw, self.framed, self.values)

    @property
    def size(self) -> int:
        """Return the bytes of the documents and of what is outside."""
        tensors = (self.raw, self.framed, self.values, self.outside.keys, self.outside.values)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def fork(span: Span, length: int) -> Span:
    """Return a span of its own with a copy of another one's first tokens."""
    copy = Span()
    copy.append(span.keys[:, :, :length], span.values[:, :, :length])
    return copy
