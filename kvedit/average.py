"""Averaging over orders: the documents of a set are read in several orders side by side.

What a model makes of a set is the mean of what it makes of m orders of it. The orders are made from
the canonical one (DESIGN 7), so whatever order the caller sent, they are the same, and so is the
answer. In each of them the model reads as it always does: nothing is taken from what it can do.

    rows of                     see
    prefix                      prefix, causally
    order j, with its suffix    prefix and order j, causally

The prefix is read once, and is the beginning of every order's span. A forward carries the tokens of
all orders side by side, so that the model's weights are read once for all.
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
from kvedit.visibility import causal, within


@dataclass(frozen=True, slots=True)
class Piece:
    """What one layer holds of a prompt.

    orders  a span each: the prefix, its documents, and what follows them; () = none was read yet
    """

    prefix: Span
    orders: tuple[Span, ...] = ()

    @property
    def size(self) -> int:
        """Return the bytes of what is held."""
        return self.prefix.size + sum(span.size for span in self.orders)

    def cut(self) -> Piece:
        """Return the same to go on from: nothing is copied, and neither changes the other."""
        return Piece(self.prefix, tuple(_whole(span) for span in self.orders))

    def opened(self, count: int) -> Piece:
        """Return the same with so many orders that begin with the prefix."""
        return Piece(self.prefix, tuple(_whole(self.prefix) for _ in range(count)))


def _whole(span: Span) -> Span:
    return span.cut(0, span.length)


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
        self._reuse = Reuse("average", self.orders, segments, shelf)
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
            self._pieces, self._cuts = self._reuse.at_hand(Piece)
            self._read = self._cuts[0]
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
        self._share()
        piece = self._pieces.get(layer.index) or Piece(Span(layer.geometry))
        if self._done[0] in self._reuse.cuts[1:]:
            # what others may have is left as it is; and whether it was taken or read, what follows
            # goes into memory of its own, so that the bits are the same
            piece = piece.cut()
        visible = causal if layer.window is None else causal & within(layer.window)
        found, first = list[Rows](), min(self._prefix - piece.prefix.length, key.shape[2])
        if first:
            tokens, place = slice(0, first), piece.prefix.length
            piece.prefix.append(key[:, :, tokens], value[:, :, tokens])
            found.append(Rows(tokens, place, (Sight(piece.prefix, visible=visible),)))
        if first < key.shape[2] and not piece.orders:
            piece = piece.opened(len(self.orders))
        each = (key.shape[2] - first) // len(self.orders)
        for span in piece.orders if each else ():
            tokens, place = slice(first, first + each), span.length
            span.append(key[:, :, tokens], value[:, :, tokens])
            found.append(Rows(tokens, place, (Sight(span, visible=visible),)))
            first += each
        self._pieces[layer.index] = piece
        return found

    def _share(self) -> None:
        """Share what the forward before has left, if others may have it: all layers have it now."""
        if self._kept != self._done:
            self._reuse.keep(*self._kept, self._pieces)
            self._kept = self._done

    def report(self) -> Mapping[str, Any]:
        """Return the orders, by the caller's indices of the documents, and the tokens read."""
        caller = self._segments.order
        shown = [[caller[place] for place in order] for order in self.orders]
        read = self._prefix + (self._read - self._prefix) * len(self.orders)
        return {
            "average": {"documents": len(caller), "orders": shown, "tokens_read": read},
        }
