"""Reranking: documents are read in the order in which they make what follows them likely.

Sachan et al., "Improving Passage Retrieval with Zero-Shot Question Generation", arXiv 2204.07496,
section 2.2, equation 2: a passage is as relevant as the question is likely behind it, by the very
model that will answer. Each passage is judged by itself, so whatever order the caller sent, the
order that is read is the same; in it the model reads as it always does.

    rows of                              see
    prefix                               prefix, causally
    a document, with what is asked       prefix, and themselves causally
    then the prompt in the order found   what stands before them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kvedit.orders import Order
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind, Reading, unreadable
from kvedit.segments import Ids, Segments
from kvedit.sight import Rows, Sight
from kvedit.spans import Span
from kvedit.visibility import causal, within

MOST_ASKED = 128  # tokens of a long suffix that are weighed: its last ones, which hold the question
MOST_SCORED = 512  # rows of logits of one forward: each is as wide as the vocabulary

Run = Callable[[Tensor, Reading, list[int]], Tensor]  # ids, reading, rows to keep -> logits


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents that are scored in one forward.

    ids   of the prefix, where it was not read yet, and of each document with what is asked
    own   how many tokens each document has there, with what is asked
    keep  the rows that predict what is asked, document by document
    """

    ids: Ids
    own: tuple[int, ...]
    keep: list[int]


class Apart:
    """Documents side by side behind one prefix, each with what is asked, none seen by another."""

    def __init__(self, prefix: int) -> None:
        self.prefixes: dict[int, Span] = {}
        self._prefix = prefix
        self._own: tuple[int, ...] = ()

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: no more than what the gate says of a layer."""
        return unreadable(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return one forward of everything."""
        return (range(length),)

    def expect(self, own: tuple[int, ...]) -> None:
        """Take note of how many tokens each document of the next forward has."""
        self._own = own

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Keep the prefix, if it comes; read each document behind it, and keep nothing of it."""
        visible = causal if layer.window is None else causal & within(layer.window)
        found, first = list[Rows](), key.shape[2] - sum(self._own)
        if layer.index not in self.prefixes:
            prefix = self.prefixes[layer.index] = Span(layer.geometry)
            prefix.append(key[:, :, :first], value[:, :, :first])
            if first:
                found.append(Rows(slice(0, first), 0, (Sight(prefix, visible=visible),)))
        prefix = self.prefixes[layer.index]
        for count in self._own:
            tokens, span = slice(first, first + count), prefix.cut(0, self._prefix)
            span.append(key[:, :, tokens], value[:, :, tokens])
            found.append(Rows(tokens, self._prefix, (Sight(span, visible=visible),)))
            first += count
        return found

    def report(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}


class RerankReading:
    """The reading of one prompt in the order of relevance; made anew for each sequence.

    segments  in canonical order, with at least one document
    last      whether the most relevant document stands last, not first

    The order is found by `rank`, before the first row of the prompt is read.
    """

    def __init__(self, segments: Segments, *, last: bool = False) -> None:
        self._segments, self._last = segments, last
        self._asked = segments.suffix[-MOST_ASKED:]
        self._plain = PlainReading()
        self._scores: tuple[float, ...] = ()
        self.order: Order | None = None

    @staticmethod
    def suits(layers: Sequence[LayerKind]) -> str | None:
        """Return why a model cannot be read so: no more than what the gate says of a layer."""
        return unreadable(layers)

    def pieces(self, length: int) -> tuple[range, ...]:
        """Return one forward of everything."""
        return (range(length),)

    def rank(self, run: Run, like: Tensor) -> Tensor:
        """Find the order, and return the tokens that are to be read next, [1, query] int64.

        run   runs the model
        like  where its ids are
        """
        documents, apart = self._segments.documents, Apart(len(self._segments.prefix))
        if len(documents) > 1 and len(self._asked) > 1:
            self._scores = tuple(self._scored(run, apart, like))
        scores = self._scores or (0.0,) * len(documents)
        best_first = sorted(range(len(documents)), key=lambda place: -scores[place])
        self.order = tuple(best_first[::-1] if self._last else best_first)
        behind = sum((documents[place] for place in self.order), ()) + self._segments.suffix
        if not apart.prefixes:
            return like.new_tensor([self._segments.prefix + behind])
        self._plain = PlainReading.behind(apart.prefixes)
        return like.new_tensor([behind])

    def _scored(self, run: Run, apart: Apart, like: Tensor) -> Iterator[float]:
        """Yield the natural-log likelihood of what is asked behind each document."""
        asked = like.new_tensor(self._asked[1:])
        for batch in self._batches():
            apart.expect(batch.own)
            logits = run(like.new_tensor([batch.ids]), apart, batch.keep)[0].float()
            said = logits.view(len(batch.own), len(asked), -1)
            chosen = said.gather(-1, asked.expand(len(said), -1)[..., None])[..., 0]
            yield from (chosen - said.logsumexp(-1)).double().sum(-1).tolist()

    def _batches(self) -> Iterator[Batch]:
        """Yield what is read to score the documents, some at a time."""
        opening, asked, count = self._segments.prefix, self._asked, len(self._segments.documents)
        together = max(MOST_SCORED // len(asked), 1)
        for first in range(0, count, together):
            documents = self._segments.documents[first : first + together]
            ids, keep = opening, list[int]()
            for document in documents:
                ids += document + asked
                # the row before a token predicts it; the first may have none, and is given
                keep += range(len(ids) - len(asked), len(ids) - 1)
            yield Batch(ids, tuple(len(each) + len(asked) for each in documents), keep)
            opening = ()

    def rows(self, layer: Layer, key: Tensor, value: Tensor) -> Sequence[Rows]:
        """Read plainly."""
        assert self.order is not None, "the order is found before anything is read in it"
        return self._plain.rows(layer, key, value)

    def report(self) -> Mapping[str, Any]:
        """Return the order that was read, and each document's score, by the caller's indices.

        scores  natural-log likelihood of what is asked, by the caller's index; null = not needed
        """
        caller, order = self._segments.order, self.order or ()
        scores = None
        if self._scores:
            scores = [score for _, score in sorted(zip(caller, self._scores, strict=True))]
        shown = [caller[place] for place in order]
        return {"rerank": {"documents": len(caller), "order": shown, "scores": scores}}
