"""Random Llamas of the sizes that the benchmarks share."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {"94M": (12, 512, 2048), "349M": (24, 1024, 4096)}  # layers, hidden, intermediate


def random_llama(shape: str) -> LlamaForCausalLM:
    """Return a random Llama with 8 query heads on 4 key-value heads of 64 (94M), or 16 on 8."""
    layers, hidden, intermediate = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=16384,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.eval()
    return model
