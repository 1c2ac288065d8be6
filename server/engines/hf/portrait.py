"""What the gate measured of a model, as plain data for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from kvedit.hf import Door
from kvedit.reading import LayerKind

TOKENS = 1000  # for which the cache is told


def portrait(model: PreTrainedModel, door: Door) -> dict[str, Any]:
    """Return a model's shape, its layers and what its cache takes.

    parameters    numbers, shared ones once
    weight_bytes  that they take as they are loaded
    layers        kinds of layers, each with how many there are; None = not measured, since
                  attention is refused
    cache_bytes   keys and values of 1,000 tokens, where every layer keeps them all
    """
    text = model.config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None)
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else None)
    weights: list[Tensor] = [*model.parameters()]
    layers = int(text.num_hidden_layers)
    cache = None
    if kv_heads and width:
        cache = 2 * layers * kv_heads * width * model.dtype.itemsize * TOKENS
    return {
        "architecture": type(model).__name__,
        "parameters": sum(weight.numel() for weight in weights),
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
        "vocabulary": int(text.vocab_size),
        "trained_length": getattr(text, "max_position_embeddings", None),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_width": width,
        "layer_count": layers,
        "layers": None if door.refusal is not None else _kinds(door.layers),
        "cache_bytes": cache,
        "devices": sorted({str(each.device) for each in chain(weights, model.buffers())}),
    }


def _kinds(layers: Sequence[LayerKind]) -> list[dict[str, Any]]:
    """Return each kind of layer with how many there are, the most frequent first."""
    kinds = Counter(tuple(_kind(layer).items()) for layer in layers)
    return [{"count": count, **dict(kind)} for kind, count in kinds.most_common()]


def _kind(layer: LayerKind) -> dict[str, Any]:
    found: dict[str, Any] = {"positions": "none", "base": None, "rotated": 0}
    geometry = layer.geometry
    if geometry is not None:
        found = {"positions": geometry.layout, "base": _base(geometry.inv_freq)}
        found["rotated"] = geometry.width
    return found | {"window": layer.window, "refusal": layer.refusal}


def _base(frequencies: Tensor) -> float | None:
    """Return the base of rotary frequencies, from the two fastest: these, scaling leaves alone."""
    if frequencies.shape[0] < 2:
        return None
    ratio = float(frequencies[1].double() / frequencies[0].double())
    return float(f"{ratio ** -frequencies.shape[0]:.4g}")
