"""PINE as a reading: documents as a set, each query sees its most important ones nearest.

Wang et al. (arXiv 2407.01100), section 3.3, in the reformulation of `kvedit`: within one document
every key moves by the same amount, so keys stay in their document's frame and distances are turns.

    rows of     see                                     where documents appear
    prefix      prefix, causally                        -
    document i  prefix, the other documents whole,      itself nearest, the others by importance
                itself causally                         to all of document i
    suffix      prefix, documents whole, suffix         by importance to each suffix token
                causally
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kvedit.plain import causal, masked_attention
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.shelf import Shelf
from kvedit.spans import Span
from pine import gpu
from pine.cache import Cached, Layout
from pine.document_rows import document_rows
from pine.explanation import Explanation
from pine.padded import Padded
from pine.reuse import Reuse
from pine.segments import Segments
from pine.suffix_rows import suffix_rows
from pine.together import Pass, companies


class Pine:
    """The reading of one prompt whose documents are a set; made anew for each sequence.

    segments  in canonical order, with at least one document, none of them empty
    shelf     where pieces of cache are shared with other prompts, or None
    explain   whether to report how important each document was
    """

    def __init__(
        self, segments: Segments, shelf: Shelf | None = None, *, explain: bool = False
    ) -> None:
        self._segments = segments
        self._reuse = Reuse(segments, shelf)
        self._explanation = Explanation() if explain else None
        self._layout: Layout | None = None
        self._spans: dict[int, Span] = {}
        self._cached: dict[int, Cached] = {}
        self._borders: tuple[int, ...] | None = None
        self._forward = (0, 0)  # tokens of the forward that runs, or ran last
        self._unlaid: dict[
            int, tuple[Tensor, Tensor, slice]
        ] = {}  # read in company, not cached yet

    @classmethod
    def companies(
        cls, readings: Mapping[int, Pine], rows: Sequence[slice], query: Tensor
    ) -> Iterator[PineCompany]:
        """Return who reads a whole prompt beside others (see `kvedit.reading.Sociable`)."""
        if gpu.available(query):  # a prompt alone is few calls there
            return
        places = [
            place
            for place, reading in readings.items()
            if reading._begins_with(rows[place].stop - rows[place].start)
        ]
        for group in companies([readings[place]._segments for place in places]):
            chosen = {place: readings[place] for place in sorted(places[each] for each in group)}
            yield PineCompany(chosen, [rows[place] for place in chosen], query)

    def borders(self) -> tuple[int, ...]:
        """Cut after the prefix and after the documents; begin after what is at hand."""
        if self._borders is None:
            self._borders = self._begin()
        return self._borders

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Read a prompt, at once or cut at `borders`, and then what follows (see `Reading`)."""
        if self._layout is None:
            self._layout = Layout.of(self._segments, query)
        if layer.index in self._unlaid:
            self._lay(layer, self._layout, *self._unlaid.pop(layer.index))
        tokens = self._count(self._layout, layer.index, query.shape[2])
        if tokens[0] < self._layout.end:
            return self._prompt(layer, self._layout, tokens, (query, key, value))
        return self._suffix(layer, self._layout, tokens[0], (query, key, value))

    def report(self) -> Mapping[str, Any]:
        """Return the number of documents and, by canonical place, the caller's index of each.

        With `explain` also the importance of each, in the caller's order.
        """
        order = list(self._segments.order)
        note: dict[str, Any] = {"documents": len(order), "canonical_order": order}
        if self._explanation is not None:
            note["importance"] = self._explanation.in_order(order)
        return {"pine": note}

    def hold(
        self, layer: Layer, key: Tensor, value: Tensor, rows: slice, importance: Tensor
    ) -> None:
        """Take note of a whole prompt that was read in company; it is cached when it is needed.

        key, value  as in `read`, of several prompts
        rows        its own among them
        importance  of documents to suffix tokens, [heads, suffix, documents], padded
        """
        self._unlaid[layer.index] = key, value, rows
        if self._explanation is not None:
            own = importance[:, : len(self._segments.suffix), : len(self._segments.documents)]
            self._explanation.add(own)

    def forget(self, layer: Layer) -> None:
        """Take `hold` back: the layer is going to be read alone."""
        self._unlaid.pop(layer.index, None)

    def _begins_with(self, tokens: int) -> bool:
        """Return whether a forward of some tokens is the whole prompt, of which nothing is read."""
        whole = self._segments.end + len(self._segments.suffix)
        fresh = not (self._spans or self._cached or self._unlaid)
        return fresh and self.borders() == (0,) and tokens == whole

    def _begin(self) -> tuple[int, ...]:
        """Take what is at hand, and return where the forwards begin after it."""
        block = self._reuse.block()
        prefix = self._reuse.prefix() if block is None else None
        begin = 0
        if block is not None:
            self._cached, begin = block, self._segments.end
            self._spans = {index: cached.outside for index, cached in block.items()}
        elif prefix is not None:
            self._spans, begin = prefix, len(self._segments.prefix)
        return tuple(cut for cut in self._reuse.cuts if cut >= begin)

    def _count(self, layout: Layout, index: int, new: int) -> tuple[int, int]:
        """Return the tokens of a layer's forward, from the first to before the last.

        Once a forward begins, the one before is complete in all layers and may be shared.
        """
        held = self._spans.setdefault(index, Span()).length
        first = held + (layout.end - layout.prefix if index in self._cached else 0)
        forward = (first, first + new)
        if forward != self._forward:
            self._reuse.keep(*self._forward, self._spans, self._cached)
            self._forward = forward
        return forward

    def _prompt(
        self,
        layer: Layer,
        layout: Layout,
        tokens: tuple[int, int],
        inputs: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Read tokens of which some lie before the suffix."""
        first, last = tokens
        if first not in (0, layout.prefix) or layout.prefix < last < layout.end:
            raise ValueError(
                f"a forward must begin and end where the prompt may be cut, got {first} to {last}"
            )
        query, key, value = inputs
        before = min(last, layout.end) - first  # tokens of prefix and documents
        frame = layout.frame(first, first + before)
        framed_key = turn(layer.geometry, key[:, :, :before], frame, last)
        span, rows = self._spans[layer.index], []
        prefix = slice(0, layout.prefix - first)
        if first == 0:
            span.append(framed_key[:, :, prefix], value[:, :, prefix])
            turned = turn(layer.geometry, query[:, :, prefix], frame[prefix], last)
            seen = causal(frame[prefix], frame[prefix])
            rows.append(masked_attention(layer, turned, span.keys, span.values, seen))
        if last >= layout.end:
            inside = slice(layout.prefix - first, layout.end - first)
            documents = (x[:, :, inside] for x in (framed_key, key, value))
            cached = Cached.of(layout, span, *documents)
            self._cached[layer.index] = cached
            asking, after = query[:, :, inside], slice(layout.end - first, None)
            wanted = layer.tail is None or layer.tail > last - layout.end
            rows.append(
                document_rows(layer, layout, cached, asking) if wanted else torch.zeros_like(asking)
            )
            suffix = (query[:, :, after], key[:, :, after], value[:, :, after])
            rows.append(self._suffix(layer, layout, layout.end, suffix))
        return torch.cat(rows, 2)

    def _lay(self, layer: Layer, layout: Layout, key: Tensor, value: Tensor, rows: slice) -> None:
        """Cache a whole prompt that has been read (see `hold`)."""
        key, value = key[:, :, rows], value[:, :, rows]
        framed = turn(layer.geometry, key, layout.frame(0, key.shape[2]), key.shape[2])
        prefix, inside, suffix = (
            slice(0, layout.prefix),
            slice(layout.prefix, layout.end),
            slice(layout.end, None),
        )
        span = self._spans[layer.index] = Span()
        span.append(framed[:, :, prefix], value[:, :, prefix])
        documents = (each[:, :, inside] for each in (framed, key, value))
        self._cached[layer.index] = Cached.of(layout, span, *documents)
        span.append(framed[:, :, suffix], value[:, :, suffix])

    def _suffix(
        self, layer: Layer, layout: Layout, start: int, fresh: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Read suffix tokens from position `start` on."""
        cached = self._cached[layer.index]
        return suffix_rows(layer, layout, cached, fresh, start, self._explanation)


class PineCompany:
    """Prompts that are read in one pass a layer (see `kvedit.reading.Company`).

    members  by place among all readings of the forward, ascending
    rows     of each, its tokens on the shared axis
    query    of one layer
    """

    def __init__(self, members: Mapping[int, Pine], rows: Sequence[slice], query: Tensor) -> None:
        self.members = members
        self._rows = rows
        prompts = [each._segments for each in members.values()]
        self._pass = Pass(Padded.of(prompts, [each.start for each in rows], query.device))

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Read all tokens of the prompts (see `kvedit.reading.Company`)."""
        output, importance = self._pass.read(layer, query, key, value)
        readings = self.members.values()
        try:
            for reading, rows, own in zip(readings, self._rows, importance, strict=True):
                reading.hold(layer, key, value, rows, own)
        except Exception:
            for reading in readings:
                reading.forget(layer)
            raise
        return output
