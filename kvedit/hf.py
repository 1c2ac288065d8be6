"""The door into transformers: the only file that knows a model's inside (DESIGN 5).

At load, once, an attention function named "evenhand" is registered and chosen. Without a `reading`
it is transformers' own SDPA, to the last bit. With one, the call also passes position ids of zero,
so queries and keys arrive un-rotated, and the reading decides where everything appears. Behaviour
is an argument of the call; nothing of the model changes between requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kvedit.gate import (
    LOGIT_ERROR,
    NUDGES,
    Measuring,
    RefusedError,
    Seen,
    Watch,
    compare,
    error,
    spread_positions,
)
from kvedit.plain import Plain, causal
from kvedit.reading import Layer, Reading
from kvedit.rotary import Layout, RotaryGeometry
from kvedit.state import attend

NAME = "evenhand"
GATE = "evenhand-gate"  # the same attention with masks that say what is seen from far away
LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")
# rope types whose frequencies change with the length of the text: a cached key would be wrong later
CHANGING = frozenset({"dynamic", "longrope"})
GATE_TOKENS = 24
GATE_PREFILL = 16  # the rest one by one


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """A model with the door open.

    geometries  one per layer, or empty where attention is refused
    refusal     why attention is not offered; None = it is
    """

    model: PreTrainedModel
    geometries: tuple[RotaryGeometry | None, ...]
    refusal: str | None

    def forward(self, ids: Tensor, reading: Reading, keep: int | Tensor | None = 1) -> Tensor:
        """Run the model with a reading.

        ids      [batch, query] int64  the whole prompt first, then what follows
        keep     how many last positions to return logits for, or their indices; 0 = all,
                 None = none
        returns  [batch, keep, vocab]
        """
        assert self.refusal is None, self.refusal
        return _forward(self.model, self.geometries, ids, reading, keep)


def open_door(model: PreTrainedModel) -> Door:
    """Open the door of a loaded model, and decide by measurement whether readings may use it.

    Each layer's geometry is the candidate that reproduces its queries and keys; then the plain
    reading must equal the stock model on random tokens, in prefill and decode.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    name = type(model).__name__
    if not model._can_set_attn_implementation():
        return Door(model, (), f"{name} has no interchangeable attention in transformers")
    before = model.config._attn_implementation
    try:
        return Door(model, _measure(model), None)
    except RefusedError as refused:
        model.set_attn_implementation(before)
        return Door(model, (), f"{name}: {refused}")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    reading: Reading | None = None,
    geometries: tuple[RotaryGeometry | None, ...] = (),
    tail: int | None = None,
    watch: Watch | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers does, or as a reading says; signature of `AttentionInterface`."""
    index: int = module.layer_idx  # type: ignore[assignment]
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    if reading is None:
        if softcap is None:
            output, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, **rest
            )
        else:
            output = _capped_attention(query, key, value, attention_mask, factor, softcap)
        if watch is not None:
            seen = output.transpose(1, 2)
            watch.see(index, Seen(query, key, value, seen, attention_mask, sliding_window))
        return output, None
    geometry = geometries[index] if geometries else None
    layer = Layer(index, geometry, factor, softcap, tail if index + 1 == len(geometries) else None)
    read = reading.read(layer, query, key, value)
    return read.transpose(1, 2).contiguous(), None


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """Attend with capped scores, as Gemma 2 is written; transformers' SDPA forgets the cap."""
    if mask is None:
        kv = torch.arange(key.shape[2], device=key.device)
        mask = causal(kv[-query.shape[2] :], kv)
    state = attend(query, key, value, scaling, visible=mask, softcap=softcap)
    return state.output.to(query.dtype).transpose(1, 2).contiguous()


def _forward(
    model: PreTrainedModel,
    geometries: tuple[RotaryGeometry | None, ...],
    ids: Tensor,
    reading: Reading,
    keep: int | Tensor | None,
) -> Tensor:
    tail: int | None = None
    if keep is None:
        keep, tail = torch.empty(0, dtype=torch.int64, device=ids.device), 0
    elif isinstance(keep, int) and keep > 0:
        tail = keep
    logits: Tensor = model(
        input_ids=ids,
        position_ids=torch.zeros_like(ids),
        # an already prepared 4-D mask stops transformers from building one; the reading masks
        attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=ids.device),
        use_cache=False,
        logits_to_keep=keep,
        reading=reading,
        geometries=geometries,
        tail=tail,
    ).logits
    return logits


@torch.inference_mode()
def _measure(model: PreTrainedModel) -> tuple[RotaryGeometry | None, ...]:
    """Return each layer's geometry, or raise `RefusedError`."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in CHANGING & {rope.get("rope_type"), *_types(rope)}:
        raise RefusedError(f"'{kind}' rotary frequencies change with the text's length")
    candidates = _candidates(model)
    if not candidates:
        raise RefusedError("it has no rotary positions")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (1, GATE_TOKENS), generator=generator).to(model.device)
    written, nudged = _written(model, ids)
    watched = _watched(model, ids, config.max_position_embeddings)
    missing = set(range(config.num_hidden_layers)) - set(watched.layers)
    if missing:
        raise RefusedError(f"layers {sorted(missing)} do not use the attention interface")
    positions = spread_positions(GATE_TOKENS, config.max_position_embeddings, model.device)
    measuring = Measuring(watched.layers, positions, [*candidates, None])
    _forward(model, (), ids, measuring, 1)
    geometries = tuple(measuring.found[index] for index in range(config.num_hidden_layers))
    if not any(geometries):
        raise RefusedError("no layer has rotary positions")
    _refuse_windows(model, ids, config.max_position_embeddings)
    compare("the plain reading", _plain_logits(model, geometries, ids), written, nudged)
    return geometries


def _written(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as the model's authors meant them, and again nudged, or refuse the door's own.

    Eager attention is the formula as written, but rounds scores to the dtype: where that alone is
    seen in the logits, a model that transformers runs on SDPA is taken as SDPA has it.
    """
    model.set_attn_implementation("eager")
    written, nudged = model(input_ids=ids, use_cache=False).logits, _nudged_logits(model, ids)
    model.set_attn_implementation(NAME)
    stock = model(input_ids=ids, use_cache=False).logits
    try:
        compare("attention through the door", stock, written, nudged)
    except RefusedError:
        if not model._supports_sdpa or error(nudged, written) * NUDGES < LOGIT_ERROR:
            raise
        return stock, _nudged_logits(model, ids)
    return written, nudged


def _nudged_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return the logits after every other dimension of the embeddings moved by one rounding."""

    def nudge(module: nn.Module, arguments: object, embeddings: Tensor) -> Tensor:
        size = torch.finfo(embeddings.dtype).eps
        up = torch.arange(embeddings.shape[-1], device=embeddings.device) % 2
        return embeddings * (1 + size * up.to(embeddings.dtype))

    hook = model.get_input_embeddings().register_forward_hook(nudge)
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return logits


def _types(rope: Mapping[str, Any]) -> set[str]:
    """Return the rope types of a config that has one set of parameters per layer type."""
    return {kind["rope_type"] for kind in rope.values() if isinstance(kind, dict)}


def _watched(model: PreTrainedModel, ids: Tensor, limit: int) -> Watch:
    """Run the stock model once over spread positions, and return what its layers did."""
    watch, tokens = Watch(), ids.shape[1]
    positions = spread_positions(tokens, limit, ids.device)
    model(
        input_ids=ids,
        position_ids=positions[None],
        # prepared, since a gap between positions could be taken for the border of a packed text
        attention_mask=causal(positions, positions)[None, None],
        use_cache=False,
        watch=watch,
    )
    return watch


def _candidates(model: PreTrainedModel) -> list[RotaryGeometry]:
    """Return every geometry that the model's own buffers allow."""
    found: list[Tensor] = []
    for name, buffer in model.named_buffers():
        last = name.rsplit(".", 1)[-1]
        known = any(torch.equal(buffer, other) for other in found)
        if last.endswith("inv_freq") and "original" not in last and not known:
            found.append(buffer)
    return [RotaryGeometry(buffer.float(), layout) for buffer in found for layout in LAYOUTS]


def _refuse_windows(model: PreTrainedModel, ids: Tensor, limit: int) -> None:
    """Refuse layers that see only a part of the text: a set cannot be read through a window.

    The model builds its masks for two tokens, which stand for the first and the last of its range.
    """
    ends = torch.tensor([0, max(limit - 1, 1)], device=ids.device)

    def between_ends(*, mask_function: Callable[..., Tensor], **rest: Any) -> Tensor:
        return mask_function(0, 0, ends[:, None], ends[None]).expand(1, 1, 2, 2)

    AttentionInterface.register(GATE, _attention)
    AttentionMaskInterface.register(GATE, between_ends)
    model.set_attn_implementation(GATE)
    watch = Watch()
    model(input_ids=ids[:, :2], use_cache=False, watch=watch)
    model.set_attn_implementation(NAME)
    narrow = {
        index: seen.window
        for index, seen in sorted(watch.layers.items())
        if (seen.visible is not None and not seen.visible[0, 0, 1, 0])
        or (seen.window is not None and seen.window < limit)
    }
    if narrow:
        window = next(iter(narrow.values()))
        part = "a part of the text" if window is None else f"the last {window} tokens"
        raise RefusedError(f"layers {list(narrow)} see only {part}")


def _plain_logits(
    model: PreTrainedModel, geometries: tuple[RotaryGeometry | None, ...], ids: Tensor
) -> Tensor:
    """Return the logits of the plain reading, in prefill and then one by one."""
    reading = Plain()
    pieces = [ids[:, :GATE_PREFILL], *torch.split(ids[:, GATE_PREFILL:], 1, 1)]
    return torch.cat([_forward(model, geometries, piece, reading, 0) for piece in pieces], 1)
