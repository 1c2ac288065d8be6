"""Parallel encoding: every document is read by itself, behind the prefix (PCW, arXiv 2212.10947).

Ratner et al., "Parallel Context Windows for Large Language Models", section 2. No document sees
another, and all begin at one place, so that a set has no order, and what is cached of a document
belongs to it and to the prefix alone: it serves in any set.

    rows of     stand               see
    prefix      from 0              prefix, causally
    document    behind the prefix   prefix, itself causally
    suffix      behind the longest  prefix, documents whole, suffix causally
                document
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from kvedit.reading import Layer, LayerKind, whole_text
from kvedit.segments import Ids, Segments
from kvedit.shelf import Shelf
from kvedit.sight import Rows, Sight, Sights
from kvedit.spans import Span
from kvedit.visibility import causal

# below these a forward of its own costs more than it saves; tokens
SMALLEST_PREFIX = 64
SMALLEST_DOCUMENT = 64

Spans = Mapping[int, Span]  # by layer


@dataclass(frozen=True, slots=True)
class Part:
    """Prefix, document or suffix of a prompt.

    place   position of its first token
    shared  whether others may take what is cached of it: then it is read in a forward of its own
    """

    ids: Ids
    place: int
    shared: bool = False


@dataclass(slots=True)
class _Layer:
    """One layer's spans, one a part.

    now     the part whose tokens come next
    behind  what the suffix sees
    whole   whether the last forward was of one part, and of all of it
    """

    spans: list[Span]
    behind: Sights
    now: int = 0
    whole: bool = False


class ParallelReading:
    """The reading of one prompt whose documents are a set; made anew for each sequence.

    segments  in canonical order, in which sums are taken, with at least one document
    shelf     where the prefix and documents are shared with other prompts, or None

    A document that is shared is read in a forward of its own, and the prefix before it too: so
    what is kept of them depends on nothing else, to the last bit. Short documents are read with
    their neighbours, and are not kept.
    """

    def __init__(self, segments: Segments, shelf: Shelf | None = None) -> None:
        self._segments, self._shelf = segments, shelf
        self._parts = parts_of(segments)
        self._taken: dict[int, Spans] = {}  # by part
        self._layers: dict[int, _Layer] = {}
        self._pieces: tuple[range, ...] | None = None

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: every layer must see the whole text."""
        return whole_text(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Read what is shared piece by piece, but for what is at hand; and the rest as it lies."""
        if self._pieces is None:
            found, first, open_piece = list[range](), 0, False
            for number, part in enumerate(self._parts):
                last = first + len(part.ids)
                if part.shared and self._take(number):
                    open_piece = False
                elif open_piece and not part.shared:
                    found[-1] = range(found[-1].start, last)
                elif last > first:
                    found.append(range(first, last))
                    open_piece = not part.shared
                first = last
            self._pieces = tuple(found)
        return self._pieces

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Cache tokens of some parts, and say what they look at; a prompt may be cut anywhere."""
        known = self._layers.get(layer.index)
        if known is None:
            known = self._layers[layer.index] = self._open(layer)
        elif known.whole:
            self._keep(known.now)
        found, first, count, ended = list[Rows](), 0, key.shape[2], len(self._parts) - 1
        while first < count:
            while known.now < ended and self._left(known) == 0:
                known.now += 1
            span, part = known.spans[known.now], self._parts[known.now]
            last = count if known.now == ended else min(count, first + self._left(known))
            held = span.length
            span.append(key[:, :, first:last], value[:, :, first:last])
            found.append(Rows(slice(first, last), part.place + held, self._seen(known)))
            known.whole = not held and last - first == count == len(part.ids)
            first = last
        return found

    def report(self) -> Mapping[str, Any]:
        """Return the number of documents and, by canonical place, the caller's index of each."""
        order = list(self._segments.order)
        return {"parallel": {"documents": len(order), "canonical_order": order}}

    def _open(self, layer: Layer) -> _Layer:
        """Return a layer's spans: those that were taken, and empty ones."""
        spans = [
            self._taken[number][layer.index] if number in self._taken else Span(layer.geometry)
            for number in range(len(self._parts))
        ]
        sights = [
            Sight(span, part.place)
            for span, part in zip(spans[:-1], self._parts[:-1], strict=True)
            if part.ids
        ]
        return _Layer(spans, (*sights, Sight(spans[-1], self._parts[-1].place, causal)))

    def _left(self, known: _Layer) -> int:
        """Return how many tokens of the part that is read now are still to come."""
        return len(self._parts[known.now].ids) - known.spans[known.now].length

    def _seen(self, known: _Layer) -> Sights:
        """Return what the part that is read now looks at."""
        if known.now == len(self._parts) - 1:
            return known.behind
        own = Sight(known.spans[known.now], self._parts[known.now].place, causal)
        before = known.now > 0 and bool(self._parts[0].ids)
        return (Sight(known.spans[0]), own) if before else (own,)

    def _take(self, number: int) -> bool:
        """Take a part from the shelf; return whether it was there."""
        kept = None if self._shelf is None else self._shelf.take(self._key(number))
        if kept is not None:
            self._taken[number] = cast("Spans", kept)
        return kept is not None

    def _keep(self, number: int) -> None:
        """Share a part that the last forward has read, if it is one to share.

        Once a forward begins in one layer, the one before is complete in all.
        """
        for each in self._layers.values():
            each.whole = False
        if self._parts[number].shared:
            spans = {index: each.spans[number] for index, each in self._layers.items()}
            size = sum(span.size for span in spans.values())  # now they change no more
            if self._shelf is not None:
                self._shelf.put(self._key(number), spans, size)

    def _key(self, number: int) -> tuple[object, ...]:
        prefix = self._segments.prefix
        if number == 0:
            return ("parallel prefix", prefix)
        return ("parallel document", prefix, self._parts[number].ids)


def parts_of(segments: Segments) -> tuple[Part, ...]:
    """Return prefix, documents and suffix, with where they stand and what is shared of them.

    Behind the last piece the answer begins, so what ends the prompt is never shared.
    """
    place, end = len(segments.prefix), len(segments.prefix) + max(segments.lengths)
    documents = [Part(ids, place, len(ids) >= SMALLEST_DOCUMENT) for ids in segments.documents]
    if not segments.suffix:
        documents[-1] = Part(documents[-1].ids, place)
    shared = place >= SMALLEST_PREFIX or any(each.shared for each in documents)
    prefix = Part(segments.prefix, 0, place > 0 and shared)
    return (prefix, *documents, Part(segments.suffix, end))
