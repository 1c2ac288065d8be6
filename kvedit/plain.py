"""The plain reading: one span, where it is, causal. The gate compares it with the stock model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kvedit.reading import Layer
from kvedit.spans import Span
from kvedit.state import attend


class Plain:
    """One span per layer; token n stands at position n and sees what came before it."""

    def __init__(self) -> None:
        self._spans: dict[int, Span] = {}

    @classmethod
    def holding(cls, layers: Mapping[int, tuple[Tensor, Tensor]]) -> Plain:
        """Return a reading that has read some tokens already.

        layers  by layer, keys rotated for their positions and values, [batch, kv_heads, kv, dim]
        """
        reading = cls()
        for index, (key, value) in layers.items():
            reading._spans[index] = span = Span()
            span.append(key, value)
        return reading

    def borders(self) -> tuple[int, ...]:
        """Return one forward of everything."""
        return (0,)

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Cache the new keys and values, and attend causally (see `kvedit.reading.Reading`)."""
        span = self._spans.setdefault(layer.index, Span())
        start, new = span.length, query.shape[2]
        if layer.geometry is not None:
            phases = layer.geometry.between(start, start + new)
            query, key = (layer.geometry.rotate(each, phases) for each in (query, key))
        span.append(key, value)
        if new == 1:  # one token sees everything
            return masked_attention(layer, query, span.keys, span.values, None)
        kv = torch.arange(span.length, device=query.device)
        return masked_attention(layer, query, span.keys, span.values, causal(kv[start:], kv))

    def report(self) -> Mapping[str, Any]:
        """Return nothing: the plain reading has nothing to say."""
        return {}


def masked_attention(
    layer: Layer, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None
) -> Tensor:
    """Return what turned queries read from keys in one frame, by SDPA unless scores are capped.

    visible  bool, broadcast to [batch, heads, query, kv]; None = everything
    """
    if layer.softcap is not None:
        state = attend(query, key, value, layer.scaling, visible=visible, softcap=layer.softcap)
        return state.output.to(query.dtype)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=visible, scale=layer.scaling, enable_gqa=grouped
    )


def causal(query: Tensor, kv: Tensor) -> Tensor:
    """Return where a query sees a key: at its own position and before.

    query    [query] positions, tokens
    kv       [kv] positions, tokens
    returns  [query, kv] bool
    """
    return query[:, None] >= kv[None, :]
