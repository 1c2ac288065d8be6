"""A lean plain Llama: a hand-written loop with fused weights and buffers made beforehand.

The strictest baseline at hand: nothing but the operations that a plain model needs, in torch, and
in the dtype of its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import LlamaForCausalLM

from kvedit.rotary import RotaryGeometry


class Lean:
    """One sequence through a Llama's own weights.

    room  tokens that the cache has place for
    """

    def __init__(self, model: LlamaForCausalLM, room: int) -> None:
        self._config = config = model.config
        self._model = model.model
        self._head = model.lm_head.weight
        self._rotary = RotaryGeometry(model.model.rotary_emb.inv_freq)
        self._layers = [
            (
                layer.input_layernorm.weight,
                torch.cat([getattr(layer.self_attn, f"{name}_proj").weight for name in "qkv"]),
                layer.self_attn.o_proj.weight,
                layer.post_attention_layernorm.weight,
                torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]),
                layer.mlp.down_proj.weight,
            )
            for layer in model.model.layers
        ]
        self._dim = config.hidden_size // config.num_attention_heads
        self._kv_heads = config.num_key_value_heads or config.num_attention_heads
        shape = (len(self._layers), 2, 1, self._kv_heads, room, self._dim)
        self._cache = torch.empty(shape, dtype=self._head.dtype)
        self.length = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Read new tokens, [1, query] int64; return the last one's logits, [1, vocab]."""
        start, stop = self.length, self.length + ids.shape[1]
        self.length = stop
        phases = self._rotary.phases(torch.arange(start, stop))
        hidden, eps = self._model.embed_tokens(ids), self._config.rms_norm_eps
        width = (hidden.shape[-1],)
        for weights, cache in zip(self._layers, self._cache, strict=True):
            before, qkv, out, after, gate_up, down = weights
            attended = self._attend(
                linear(rms_norm(hidden, width, before, eps), qkv), phases, cache
            )
            hidden = hidden + linear(attended, out)
            gate, up = linear(rms_norm(hidden, width, after, eps), gate_up).chunk(2, -1)
            hidden = hidden + linear(silu(gate).mul_(up), down)
        last = rms_norm(hidden[:, -1], width, self._model.norm.weight, eps)
        return linear(last, self._head)

    def _attend(self, qkv: Tensor, phases: tuple[Tensor, Tensor], cache: Tensor) -> Tensor:
        heads, kv_heads = self._config.num_attention_heads, self._kv_heads
        split = [heads * self._dim, kv_heads * self._dim, kv_heads * self._dim]
        query, key, value = (
            x.unflatten(-1, (-1, self._dim)).transpose(1, 2) for x in qkv.split(split, -1)
        )
        stop = self.length
        start = stop - query.shape[2]
        cache[0, :, :, start:stop] = self._rotary.rotate(key, phases)
        cache[1, :, :, start:stop] = value
        read = scaled_dot_product_attention(
            self._rotary.rotate(query, phases),
            cache[0, :, :, :stop],
            cache[1, :, :, :stop],
            is_causal=start == 0 and stop > 1,
            enable_gqa=True,
        )
        return read.transpose(1, 2).flatten(2)
