"""Averaging over orders: the documents of a set are read in several orders side by side.

What a model makes of a set is the mean of what it makes of m orders of it. The orders are made from
the canonical one (DESIGN 7), so whatever order the caller sent, they are the same, and so is the
answer. In each of them the model reads as it always does: nothing is taken from what it can do.

    rows of            see                                  where
    prefix             prefix, causally                     0
    order j, suffix    prefix; order j with its suffix,     behind the prefix
                       causally

All orders share the prefix. A forward carries the tokens of all of them side by side, so that the
model's weights are read once for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from kvedit.orders import Order
from kvedit.reading import Layer, LayerKind, between, unreadable
from kvedit.reuse import Reuse
from kvedit.segments import Ids, Segments
from kvedit.shelf import Shelf
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import causal, everything, within


@dataclass(frozen=True, slots=True)
class Piece:
    """What one layer holds of a prompt.

    own  of each order: its documents, and what follows them
    """

    prefix: Span
    own: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Return the bytes of what is held."""
        return self.prefix.size + sum(span.size for span in self.own)

    def cut(self) -> Piece:
        """Return the same to go on from: nothing is copied, and neither changes the other."""
        return Piece(
            self.prefix.cut(0, self.prefix.length),
            tuple(span.cut(0, span.length) for span in self.own),
        )


class AverageReading:
    """The reading of one prompt in several orders; made anew for each sequence.

    segments  in canonical order, with at least one document
    orders    of the documents, by their canonical places
    shelf     where pieces of cache are shared with other prompts, or None

    The tokens of a forward are those that `spread` gives.
    """

    def __init__(
        self, segments: Segments, orders: Sequence[Order], shelf: Shelf | None = None
    ) -> None:
        self.orders = tuple(orders)
        self._segments = segments
        self._reuse = Reuse(("average", self.orders), segments, shelf)
        self._pieces: dict[int, Piece] = {}
        self._prefix, self._end = len(segments.prefix), segments.end
        self._cuts: tuple[int, ...] | None = None
        self._read = 0  # tokens of an order, with the prefix, that were spread
        self._done = (0, 0)  # of them, those of the forward that runs, or ran last
        self._kept = (0, 0)

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: no more than what the gate says of a layer."""
        return unreadable(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Cut after the prefix and after the documents; begin after what is at hand."""
        if self._cuts is None:
            kept, begin = self._reuse.at_hand(Piece)
            self._pieces = {index: piece.cut() for index, piece in kept.items()}
            self._cuts = tuple(cut for cut in self._reuse.cuts if cut >= begin)
            self._read = begin
        return between(self._cuts, length)

    def spread(self, ids: Tensor) -> tuple[Tensor, list[int]]:
        """Return the tokens of a forward: the prefix once, the rest for every order side by side.

        ids      [1, query] int64 of the canonical order, or what follows it
        returns  [1, tokens], and where each order's last token stands there
        raises   ValueError  if the prompt is cut inside the documents
        """
        first, last = self._read, self._read + ids.shape[1]
        prefix, end = self._prefix, self._end
        inside = first < end and last > prefix
        if inside and (first not in (0, prefix) or last < end):
            raise ValueError(
                f"a forward must begin and end where the prompt may be cut, got {first} to {last}"
            )
        self._read, self._done = last, (first, last)
        rest = ids[:, max(end - first, 0) :] if last > end else ids[:, :0]
        opening = ids[:, : max(prefix - first, 0)]
        documents = [
            self._documents(order, ids) if inside else rest[:, :0] for order in self.orders
        ]
        parts = [opening, *chain.from_iterable((own, rest) for own in documents)]
        whole = torch.cat(parts, 1)
        each = (whole.shape[1] - opening.shape[1]) // len(self.orders)
        ends = [opening.shape[1] + (index + 1) * each - 1 for index in range(len(self.orders))]
        return whole, ends

    def _documents(self, order: Order, like: Tensor) -> Tensor:
        ids: Ids = sum((self._segments.documents[index] for index in order), ())
        return like.new_tensor([ids])

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Cache what `spread` gave, and say what it looks at."""
        if self._kept != self._done:  # the forward before is complete in all layers
            if self._reuse.wants(*self._kept):
                held = {index: piece.cut() for index, piece in self._pieces.items()}
                self._reuse.keep(self._kept[1], held)
            self._kept = self._done
        piece = self._pieces.get(layer.index)
        if piece is None:
            spans = tuple(Span(layer.geometry) for _ in self.orders)
            piece = self._pieces[layer.index] = Piece(Span(layer.geometry), spans)
        near = everything if layer.window is None else within(layer.window)
        opening = min(self._prefix - piece.prefix.length, key.shape[2])
        found = []
        if opening:
            tokens, place = slice(0, opening), piece.prefix.length
            piece.prefix.append(key[:, :, tokens], value[:, :, tokens])
            found.append(Rows(tokens, place, (Sight(piece.prefix, visible=causal & near),)))
        before = (Sight(piece.prefix, visible=near),) if piece.prefix.held else ()
        each = (key.shape[2] - opening) // len(self.orders)
        for index, span in enumerate(piece.own if each else ()):
            first = opening + index * each
            tokens, place = slice(first, first + each), self._prefix + span.length
            span.append(key[:, :, tokens], value[:, :, tokens])
            own = Sight(span, self._prefix, causal & near)
            found.append(Rows(tokens, place, (*before, own)))
        return found

    def report(self) -> Mapping[str, Any]:
        """Return the orders, by the caller's indices of the documents, and the tokens read."""
        caller = self._segments.order
        shown = [[caller[place] for place in order] for order in self.orders]
        read = self._prefix + (self._read - self._prefix) * len(self.orders)
        return {
            "average": {"documents": len(caller), "orders": shown, "tokens_read": read},
        }
