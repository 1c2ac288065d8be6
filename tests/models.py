"""Tiny seeded models for tests: real architectures, random weights, attention far from flat."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.cache_utils import CacheLayerMixin

Model = TypeVar("Model", bound=PreTrainedModel)

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def sharpen(model: Model, seed: int) -> Model:
    """Give every matrix seeded normal weights, so that positions and order matter to the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                continue
            spread = 1.0 if "embed" in name else weight.shape[-1] ** -0.5
            factor = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread * factor)
    model.train(False)
    return model


def in_dtype(model: Model, dtype: torch.dtype) -> Model:
    """Return a model in some dtype: itself."""
    torch.nn.Module.to(model, dtype)
    return model


def held_by(cache: DynamicCache) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Return the keys and values that a model's own cache holds, by layer."""
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for index, layer in enumerate(cache.layers):
        assert isinstance(layer, CacheLayerMixin)
        assert layer.keys is not None and layer.values is not None
        found[index] = layer.keys, layer.values
    return found


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Return a Llama of two layers with grouped queries."""
    return sharpen(LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})), seed)


def tiny_qwen2(seed: int = 0, **changes: Any) -> Qwen2ForCausalLM:
    """Return a Qwen2 of two layers, with biases on queries, keys and values."""
    return sharpen(Qwen2ForCausalLM(Qwen2Config(**{**SHAPE, **changes})), seed)
