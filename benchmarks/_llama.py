"""Random Llamas of the sizes that the benchmarks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Shape:
    """What a Llama is like: layers, widths, and heads of `hidden / heads` dimensions."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000

    @property
    def dim(self) -> int:
        """Return the dimensions of a head."""
        return self.hidden // self.heads


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "94M": Shape(12, 512, 2048, 8, 4),
        "349M": Shape(24, 1024, 4096, 16, 8),
        "1.5B": Shape(28, 1536, 8960, 12, 2, 151936),  # as Qwen2.5-Coder-1.5B
    }
)


def random_llama(name: str, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Return a random Llama of one of the shapes."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=16384,
        tie_word_embeddings=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # the weights are never there in float32
    try:
        model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.eval()
    return model
