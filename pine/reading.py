"""PINE as a reading: documents as a set, each query sees its most important ones nearest.

Wang et al. (arXiv 2407.01100), section 3.3, as sights: within one document every key moves by the
same amount, so a document is a span, and the set of them is ranked.

    rows of     see                                     where documents appear
    prefix      prefix, causally                        -
    document i  prefix, the other documents whole,      itself nearest, the others by importance
                itself causally                         to all of document i
    suffix      prefix, documents whole, suffix         by importance to each suffix token
                causally

In layers left out of `layers` all of it is read plainly, documents one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvedit.pages import Pages
from kvedit.reading import Layer, LayerKind, between, whole_text
from kvedit.reuse import Reuse
from kvedit.segments import Segments
from kvedit.shelf import Shelf
from kvedit.sight import Ranked, Rows, Sight, Sights
from kvedit.spans import Span, SpanSet
from kvedit.visibility import causal
from pine.explanation import Explanation


@dataclass(frozen=True, slots=True)
class Piece:
    """What one layer keeps of a prompt before its suffix; once read, nothing of it changes.

    documents  None until they are read
    """

    prefix: Span
    documents: SpanSet | None

    @property
    def size(self) -> int:
        """Return the bytes of what is kept: keys, raw ones too, and values."""
        return self.prefix.size + (0 if self.documents is None else self.documents.size)


class PineReading:
    """The reading of one prompt whose documents are a set; made anew for each sequence.

    segments  in canonical order, with at least one document, none of them empty
    shelf     where pieces of cache are shared with other prompts, or None
    explain   whether to report how important each document was
    layers    the first that reads the documents as a set, and the one after the last; None = all.
              The others read them one after the other, in canonical order
    """

    def __init__(
        self,
        segments: Segments,
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
        layers: tuple[int, int] | None = None,
    ) -> None:
        self._segments = segments
        self._reuse = Reuse("pine", layers, segments, shelf)
        self._ranking = None if layers is None else range(*layers)
        self._explanation = Explanation() if explain else None
        self._pages: dict[torch.device, Pages] = {}  # one for all layers of a device
        self._pieces: dict[int, Piece] = {}  # prefix and documents
        self._suffixes: dict[int, Span] = {}
        self._behind: dict[int, Sights] = {}  # what suffix tokens see
        self._prefix, self._end = len(segments.prefix), segments.end
        self._cuts: tuple[int, ...] | None = None
        self._forward = (0, 0)  # tokens of the forward that runs, or ran last

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: every layer must see the whole text."""
        return whole_text(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Cut after the prefix and after the documents; begin after what is at hand."""
        if self._cuts is None:
            self._pieces, self._cuts = self._reuse.at_hand(Piece)
        return between(self._cuts, length)

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Cache a piece of the prompt, or what follows it, and say what it looks at.

        raises  ValueError  if the prompt is cut elsewhere than it may be
        """
        piece = self._pieces.get(layer.index)
        if piece is None:
            piece = self._pieces[layer.index] = Piece(Span(layer.geometry), None)
        first, last = self._count(layer.index, piece, key.shape[2])
        if self._ranking is not None and layer.index not in self._ranking:
            return (self._plain(layer, piece, first, key, value),)
        if first >= self._end:
            return (self._suffix(layer, piece, first, key, value),)
        prefix, end = self._prefix, self._end
        if first not in (0, prefix) or prefix < last < end:
            raise ValueError(
                f"a forward must begin and end where the prompt may be cut, got {first} to {last}"
            )
        found: list[Rows] = []
        if first < prefix:
            piece.prefix.append(key[:, :, :prefix], value[:, :, :prefix])
            found.append(Rows(slice(0, prefix), 0, (Sight(piece.prefix, visible=causal),)))
        if last >= end:
            inside = slice(prefix - first, end - first)
            documents = SpanSet(self._layout(key), layer.geometry)
            documents.fill(key[:, :, inside], value[:, :, inside])
            piece = self._pieces[layer.index] = Piece(piece.prefix, documents)
            found += self._documents(piece.prefix, documents, inside.start)
        if last > end:
            after = slice(end - first, None)
            found.append(self._suffix(layer, piece, first, key[:, :, after], value[:, :, after]))
        return found

    def report(self) -> Mapping[str, Any]:
        """Return the number of documents and, by canonical place, the caller's index of each.

        With `explain` also the importance of each, in the caller's order.
        """
        order = list(self._segments.order)
        note: dict[str, Any] = {"documents": len(order), "canonical_order": order}
        if self._explanation is not None:
            note["importance"] = self._explanation.in_order(order)
        return {"pine": note}

    def _plain(self, layer: Layer, piece: Piece, first: int, key: Tensor, value: Tensor) -> Rows:
        """Return the rows of a layer that reads the text as it lies; all of it is one span."""
        if first in self._reuse.cuts[1:]:
            # others may have what was read so far; and a span that was taken lies in memory as one
            # that was not, so that the bits are the same
            piece = self._pieces[layer.index] = Piece(piece.prefix.cut(0, first), None)
        piece.prefix.append(key, value)
        sight = Sight(piece.prefix, visible=causal)
        return Rows(slice(0, key.shape[2]), first, (sight,))

    def _documents(self, prefix: Span, documents: SpanSet, first: int) -> Iterator[Rows]:
        """Yield each document's rows: itself nearest, the others by importance to all of it."""
        end, before = self._end, (Sight(prefix),) if prefix.held else ()
        for index, length in enumerate(self._segments.lengths):
            sights = (*before, Ranked(documents, end, own=index))
            yield Rows(slice(first, first + length), end - length, sights)
            first += length

    def _suffix(self, layer: Layer, piece: Piece, first: int, key: Tensor, value: Tensor) -> Rows:
        """Return the rows of suffix tokens: documents by importance to each of them.

        first  position of the forward's first token
        """
        suffix = self._suffixes.get(layer.index)
        if suffix is None:
            suffix = self._suffixes[layer.index] = Span(layer.geometry)
            self._behind[layer.index] = self._seen_behind(piece, suffix)
        place = self._end + suffix.length
        suffix.append(key, value)
        tokens = slice(place - first, place - first + key.shape[2])
        return Rows(tokens, place, self._behind[layer.index])

    def _seen_behind(self, piece: Piece, suffix: Span) -> Sights:
        assert piece.documents is not None, "documents come before the suffix"
        told = None if self._explanation is None else self._explanation.add
        before = (Sight(piece.prefix),) if piece.prefix.held else ()
        ranked = Ranked(piece.documents, self._end, told=told)
        return (*before, ranked, Sight(suffix, self._end, causal))

    def _layout(self, key: Tensor) -> Pages:
        if key.device not in self._pages:
            self._pages[key.device] = Pages(self._segments.lengths, key.device)
        return self._pages[key.device]

    def _count(self, index: int, piece: Piece, new: int) -> tuple[int, int]:
        """Return the tokens of a layer's forward, from the first to before the last.

        Once a forward begins, the one before is complete in all layers and may be shared.
        """
        suffix = self._suffixes.get(index)
        inside = 0 if piece.documents is None else self._end - self._prefix
        first = piece.prefix.held + inside + (0 if suffix is None else suffix.held)
        forward = (first, first + new)
        if forward != self._forward:
            self._reuse.keep(*self._forward, self._pieces)
            self._forward = forward
        return forward
