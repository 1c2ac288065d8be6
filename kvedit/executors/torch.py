"""The specification: turn, attend, merge. Every device, dtype and width of heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kvedit.ranking import importance, nearest_first, starts
from kvedit.reading import Layer
from kvedit.rotary import turn
from kvedit.sight import Ranked, Rows, Sight
from kvedit.spans import SpanSet
from kvedit.state import attend, empty, merge, scores
from kvedit.visibility import causal, everything


class TorchExecutor:
    """Reads one sight after the other, and merges what was read."""

    name = "torch"

    def read(self, layer: Layer, query: Tensor, rows: Sequence[Rows]) -> Tensor:
        """Attend (see `kvedit.executors.Executor`)."""
        output = torch.zeros_like(query)
        for some in rows:
            output[:, :, some.tokens] = self._read(layer, query[:, :, some.tokens], some)
        return output

    def mass(self, layer: Layer, query: Tensor, spans: SpanSet) -> Tensor:
        """Return the natural log of each span's weight, from un-rotated queries and keys."""
        product = scores(query, spans.raw, layer.scaling, layer.softcap)
        bounds = zip(spans.pages.bounds, spans.pages.sizes, strict=True)
        parts = [product[..., slots.start : slots.start + size] for slots, size in bounds]
        return torch.stack([part.logsumexp(-1) for part in parts], -1)

    def _read(self, layer: Layer, query: Tensor, rows: Rows) -> Tensor:
        place = torch.arange(rows.place, rows.place + rows.count, device=query.device)
        precise = query.to(torch.promote_types(query.dtype, torch.float32))
        state = empty(query)
        for sight in self._placed(layer, query, rows.sights):
            span = sight.span
            if not span.held:
                continue
            distance = torch.as_tensor(sight.distance(place), device=query.device)
            own = torch.as_tensor(sight.own(place), device=query.device)
            kv = torch.arange(span.first, span.length, device=query.device)
            turned = turn(layer.geometry, precise, distance)
            read = attend(
                turned,
                span.keys,
                span.values,
                layer.scaling,
                visible=sight.visible.mask(own, kv),
                softcap=layer.softcap,
            )
            state = merge(state, read)
        return state.output.to(query.dtype)

    def _placed(
        self, layer: Layer, query: Tensor, sights: Sequence[Sight | Ranked]
    ) -> Iterator[Sight]:
        """Yield sights, with those of ranked spans where their weight puts them."""
        for sight in sights:
            if isinstance(sight, Sight):
                yield sight
                continue
            lengths = sight.spans.pages.lengths
            weight = importance(self.mass(layer, query, sight.spans), lengths, sight.own)
            if sight.told is not None and sight.own is None:
                sight.told(weight)
            start = starts(nearest_first(weight), lengths, sight.end)
            for index, size in enumerate(sight.spans.pages.sizes):
                span = sight.spans.span(index)
                if index == sight.own:
                    yield Sight(span, sight.end - size, causal)
                else:
                    yield Sight(span, start[..., index], everything)
