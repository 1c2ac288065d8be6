"""The door into transformers: the only file that knows a model's inside (DESIGN 5).

At load, once, an attention function named "evenhand" is registered and chosen. Without a `reading`
it is transformers' own SDPA, to the last bit. With one, the call also passes position ids of zero,
so queries and keys arrive un-rotated, and the reading decides where everything appears. Behaviour
is an argument of the call; nothing of the model changes between requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kvedit.plain import Plain
from kvedit.reading import Layer, Reading
from kvedit.rotary import Layout, RotaryGeometry

NAME = "evenhand"
LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")
# rope types whose frequencies change with the length of the text: a cached key would be wrong later
CHANGING = frozenset({"dynamic", "longrope"})
GATE_TOKENS = 24  # 16 in prefill, 8 one by one
GATE_PREFILL = 16
# allowed difference of logits relative to their spread, in units of the dtype's rounding
GATE_ROUNDINGS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """A model with the door open.

    geometries  one per layer, or empty where attention is refused
    refusal     why attention is not offered, in one sentence; None = it is
    """

    model: PreTrainedModel
    geometries: tuple[RotaryGeometry | None, ...]
    refusal: str | None

    def forward(self, ids: Tensor, reading: Reading, keep: int = 1) -> Tensor:
        """Run the model with a reading.

        ids      [batch, query] int64  the whole prompt first, then what follows
        keep     how many last positions to return logits for; 0 = all
        returns  [batch, keep, vocab]
        """
        assert self.refusal is None, self.refusal
        return _forward(self.model, self.geometries, ids, reading, keep)


def open_door(model: PreTrainedModel) -> Door:
    """Open the door of a loaded model, and decide by measurement whether readings may use it.

    The plain reading is compared with the stock model on random tokens, prefill then decode, for
    each candidate layout; the first that agrees to rounding is taken.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if not model._can_set_attn_implementation():
        return Door(model, (), f"{_name(model)} has no interchangeable attention in transformers")
    model.set_attn_implementation(NAME)
    refusal = _refusal(model)
    if refusal is not None:
        return Door(model, (), refusal)
    inv_freq = _frequencies(model)
    assert inv_freq is not None
    stock = _stock_logits(model)
    worst = torch.inf
    for layout in LAYOUTS:
        geometry = RotaryGeometry(inv_freq, layout)
        geometries = (geometry,) * _layer_count(model)
        difference = _difference(model, geometries, stock)
        if difference <= GATE_ROUNDINGS * _rounding(model.dtype):
            return Door(model, geometries, None)
        worst = min(worst, difference)
    reason = f"{_name(model)}: the plain reading differs from the stock model by {worst:.1e}"
    return Door(model, (), reason + " of the logits' spread in every layout tried")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    reading: Reading | None = None,
    geometries: tuple[RotaryGeometry | None, ...] = (),
    scaling: float | None = None,
    softcap: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers does, or as a reading says; signature of `AttentionInterface`."""
    if reading is None:
        stock: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return stock
    index: int = module.layer_idx  # type: ignore[assignment]
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = Layer(index, geometries[index], factor, softcap)
    output = reading.read(layer, query, key, value)
    return output.transpose(1, 2).contiguous(), None


def _forward(
    model: PreTrainedModel,
    geometries: tuple[RotaryGeometry | None, ...],
    ids: Tensor,
    reading: Reading,
    keep: int,
) -> Tensor:
    logits: Tensor = model(
        input_ids=ids,
        position_ids=torch.zeros_like(ids),
        # an already prepared 4-D mask stops transformers from building one; the reading masks
        attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=ids.device),
        use_cache=False,
        logits_to_keep=keep,
        reading=reading,
        geometries=geometries,
    ).logits
    return logits


def _refusal(model: PreTrainedModel) -> str | None:
    """Return why the model cannot be read through the door, as far as its config tells."""
    config = model.config.get_text_config()
    name = _name(model)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in CHANGING:
        return f"{name}: '{rope['rope_type']}' rotary frequencies change with the text's length"
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in kinds or (not kinds and window is not None)
    if sliding and window is not None and window < config.max_position_embeddings:
        return f"{name}: some layers see only the last {window} tokens"
    other = kinds - {"full_attention", "sliding_attention"}
    if other:
        return f"{name}: layers of type {sorted(other)} are not plain attention"
    if _frequencies(model) is None:
        return f"{name} does not have one set of rotary frequencies for all layers"
    return None


def _frequencies(model: PreTrainedModel) -> Tensor | None:
    """Return the model's rotary frequencies, [width / 2] float32, if all modules share one set."""
    found = [
        buffer.float()
        for name, buffer in model.named_buffers()
        if name.rsplit(".", 1)[-1] == "inv_freq"
    ]
    if not found or any(not torch.equal(found[0], other) for other in found):
        return None
    return found[0]


def _layer_count(model: PreTrainedModel) -> int:
    count: int = model.config.get_text_config().num_hidden_layers
    return count


def _gate_ids(model: PreTrainedModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, GATE_TOKENS), generator=generator)
    return ids.to(model.device)


@torch.inference_mode()
def _stock_logits(model: PreTrainedModel) -> Tensor:
    logits: Tensor = model(input_ids=_gate_ids(model), use_cache=False).logits
    return logits


@torch.inference_mode()
def _difference(
    model: PreTrainedModel, geometries: tuple[RotaryGeometry | None, ...], stock: Tensor
) -> float:
    """Return the greatest difference of plain reading and stock, relative to the logits' spread."""
    ids, reading = _gate_ids(model), Plain()
    pieces = [_forward(model, geometries, ids[:, :GATE_PREFILL], reading, 0)]
    pieces += [
        _forward(model, geometries, ids[:, place : place + 1], reading, 0)
        for place in range(GATE_PREFILL, GATE_TOKENS)
    ]
    difference = (torch.cat(pieces, 1).float() - stock.float()).abs().max()
    return float(difference / stock.float().std())


def _rounding(dtype: torch.dtype) -> float:
    """Return the rounding unit of a reading: turns are made in float32 at best."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__
