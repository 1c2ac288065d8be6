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

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kvedit.plain import causal
from kvedit.reading import Layer
from kvedit.rotary import turn
from pine.cache import Cached, Layout
from pine.document_rows import document_rows, masked_attention
from pine.segments import Segments
from pine.suffix_rows import suffix_rows


class Pine:
    """The reading of one prompt whose documents are a set; made anew for each sequence.

    segments  in canonical order, with at least one document, none of them empty
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._layout: Layout | None = None
        self._cached: dict[int, Cached] = {}

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Read the whole prompt at the first call, further suffix tokens after (see `Reading`)."""
        if self._layout is None:
            self._layout = Layout.of(self._segments, query.device)
        cached = self._cached.get(layer.index)
        if cached is None:
            return self._prefill(layer, self._layout, query, key, value)
        start = cached.append(self._layout, layer.geometry, key, value)
        return suffix_rows(layer, self._layout, cached, query, start)

    def report(self) -> Mapping[str, Any]:
        """Return the number of documents and, by canonical place, the caller's index of each."""
        order = list(self._segments.order)
        return {"pine": {"documents": len(order), "canonical_order": order}}

    def _prefill(
        self, layer: Layer, layout: Layout, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        frame = layout.frame(query.shape[2])
        framed_query, framed_key = (turn(layer.geometry, x, frame) for x in (query, key))
        cached = Cached.of(layout, framed_key, key, value)
        self._cached[layer.index] = cached
        prefix, documents = slice(0, layout.prefix), layout.documents
        rows = [
            masked_attention(
                layer,
                framed_query[:, :, prefix],
                framed_key[:, :, prefix],
                value[:, :, prefix],
                causal(frame[prefix], frame[prefix]),
            ),
            document_rows(
                layer, layout, cached, query[:, :, documents], framed_query[:, :, documents]
            ),
            suffix_rows(layer, layout, cached, query[:, :, layout.end :], layout.end),
        ]
        return torch.cat(rows, 2)
