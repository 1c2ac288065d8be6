"""The door into transformers: the only file that knows a model's inside (DESIGN 6).

At load, once, an attention function named "evenhand" is registered and chosen. Without a reader it
is transformers' own SDPA, to the last bit. With one, the call also passes position ids of zero, so
queries and keys arrive un-rotated; a reading decides where everything appears, and an executor
attends. Behaviour is an argument of the call; nothing of the model changes between requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kvedit.executors import Executor
from kvedit.executors.cases import Shape
from kvedit.executors.choice import Choice, choose
from kvedit.executors.torch import TorchExecutor
from kvedit.gate import (
    LOGIT_ERROR,
    NUDGES,
    Measuring,
    RefusedError,
    Seen,
    Watch,
    causal_mask,
    compare,
    error,
    spread_positions,
)
from kvedit.kernels.fit import fit
from kvedit.placement import content, entrance
from kvedit.plain import PlainReading
from kvedit.reading import Layer, LayerKind, Reading
from kvedit.rotary import Layout, RotaryGeometry
from kvedit.state import attend
from kvedit.together import Alone, Together

NAME = "evenhand"
GATE = "evenhand-gate"  # the same attention with masks that say what is seen from far away
LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")
# rope types whose frequencies change with the length of the text: a cached key would be wrong later
CHANGING = frozenset({"dynamic", "longrope"})
GATE_TOKENS = 24
GATE_PREFILL = 16  # the rest one by one

Keep = int | Sequence[int] | None  # how many last positions, or which; 0 = all, None = none


class Reader(Protocol):
    """What attends in each layer of one forward (see `kvedit.together`)."""

    def read(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Cache the new keys and values, none of them rotated, and return what queries read."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """A model with the door open.

    layers    what was measured of each, or empty where attention is refused
    executor  who reads, and why others do not
    refusal   why attention is not offered; None = it is
    """

    model: PreTrainedModel
    layers: tuple[LayerKind, ...]
    choice: Choice
    refusal: str | None

    @property
    def executor(self) -> Executor:
        """Return who reads."""
        return self.choice.executor

    @property
    def geometries(self) -> tuple[RotaryGeometry | None, ...]:
        """Return each layer's geometry."""
        return tuple(layer.geometry for layer in self.layers)

    def suits(self, reading: Reading) -> str | None:
        """Return why the model cannot be read so, or None."""
        return self.refusal or reading.suits(self.layers)

    @property
    def device(self) -> torch.device:
        """Return where token ids are wanted; layers may be elsewhere, and logits too."""
        return entrance(self.model)

    def forward(self, ids: Tensor, reading: Reading, keep: Keep = 1) -> Tensor:
        """Run the model with a reading.

        ids      [batch, query] int64  the whole prompt first, then what follows
        keep     which positions to return logits for
        returns  [batch, keep, vocab]
        """
        return self.run(ids, Alone(reading, self.executor), keep)

    def run(self, ids: Tensor, reader: Reader, keep: Keep = 1) -> Tensor:
        """Run the model with a reader; the rest as in `forward`."""
        assert self.refusal is None, self.refusal
        return _forward(self.model, self.layers, ids, reader, keep)

    def together(
        self, pieces: Sequence[Tensor], readings: Sequence[Reading]
    ) -> tuple[Tensor, Mapping[int, Exception]]:
        """Run the model once on the next tokens of several sequences.

        pieces   [1, query] int64 each
        returns  logits of each one's last token, [sequences, 1, vocab], and by sequence the error
                 of a reading that failed: its logits mean nothing
        """
        lengths = [ids.shape[1] for ids in pieces]
        together = Together(readings, lengths, self.executor)
        last = [end - 1 for end in accumulate(lengths)]
        logits = self.run(torch.cat(list(pieces), 1), together, last)
        return logits.transpose(0, 1), together.failed


def open_door(model: PreTrainedModel, executor: Executor | None = None) -> Door:
    """Open the door of a loaded model, and decide by measurement whether readings may use it.

    executor  who reads; None = the fastest that measures right beside the torch executor

    Each layer's geometry is the candidate that reproduces its queries and keys; then the plain
    reading must equal the stock model on random tokens, in prefill and decode.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    name = type(model).__name__
    closed = Choice(TorchExecutor(), {})
    if not model._can_set_attn_implementation():
        return Door(model, (), closed, f"{name} has no interchangeable attention in transformers")
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        layers, shapes = _measure(model)
        choice = choose(shapes) if executor is None else Choice(executor, {})
        _compare_plain(model, layers, choice.executor)
    except RefusedError as refused:
        model.set_attn_implementation(before)
        return Door(model, (), closed, f"{name}: {refused}")
    return Door(model, layers, choice, None)


def fit_kernels(model: PreTrainedModel) -> Mapping[str, str]:
    """Give a model on a CPU the kernels that are fastest there (see `kvedit.kernels.fit`).

    returns  by shape of its linear layers, what multiplies them; empty where all stay stock

    Before the door is opened, since what it measures shall be what runs. Logits then differ from
    the stock model's in their last digits.
    """
    if model.device.type != "cpu":
        return {}

    def run() -> None:
        with torch.inference_mode():
            model(input_ids=_random_ids(model), use_cache=False)

    return fit(model, run, _attention, model.get_output_embeddings())


def _attention(  # noqa: PLR0913  transformers calls it with so many
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    reader: Reader | None = None,
    layers: tuple[LayerKind, ...] = (),
    tail: int | None = None,
    watch: Watch | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers does, or as a reader does; signature of `AttentionInterface`."""
    index: int = module.layer_idx  # type: ignore[assignment]
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    if reader is None:
        if softcap is None:
            output, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, **rest
            )
        else:
            output = _capped_attention(query, key, value, attention_mask, factor, softcap)
        if watch is not None:
            seen = output.transpose(1, 2)
            watch.see(
                index,
                Seen(query, key, value, seen, attention_mask, sliding_window, factor, softcap),
            )
        return output, None
    kind = layers[index] if layers else LayerKind(None)
    last = tail if index + 1 == len(layers) else None
    layer = Layer(index, kind.geometry, factor, softcap, last, kind.window)
    read = reader.read(layer, query, key, value)
    return read.transpose(1, 2).contiguous(), None


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """Attend with capped scores, as Gemma 2 is written; transformers' SDPA forgets the cap."""
    if mask is None:
        kv = torch.arange(key.shape[2], device=key.device)
        mask = causal_mask(kv[-query.shape[2] :], kv)
    state = attend(query, key, value, scaling, visible=mask, softcap=softcap)
    return state.output.to(query.dtype).transpose(1, 2).contiguous()


def _forward(
    model: PreTrainedModel,
    layers: tuple[LayerKind, ...],
    ids: Tensor,
    reader: Reader,
    keep: Keep,
) -> Tensor:
    tail: int | None = None
    if keep is None:
        keep, tail = (), 0
    elif isinstance(keep, int) and keep > 0:
        tail = keep
    logits: Tensor = model(
        input_ids=ids,
        position_ids=torch.zeros_like(ids),
        # an already prepared 4-D mask stops transformers from building one; the reading masks
        attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=ids.device),
        use_cache=False,
        # numbers are on no device: a tensor would stay on that of the ids, the last layer may not
        logits_to_keep=keep if isinstance(keep, int) else list(keep),
        reader=reader,
        layers=layers,
        tail=tail,
    ).logits
    return logits


@torch.inference_mode()
def _measure(model: PreTrainedModel) -> tuple[tuple[LayerKind, ...], list[Shape]]:
    """Return what each layer is like, and the kinds there are; or raise `RefusedError`."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in CHANGING & {rope.get("rope_type"), *_types(rope)}:
        raise RefusedError(f"'{kind}' rotary frequencies change with the text's length")
    candidates = _candidates(model)
    if not candidates:
        raise RefusedError("it has no rotary positions")
    ids, limit = _random_ids(model), config.max_position_embeddings
    watched = _watched(model, ids, limit)
    missing = set(range(config.num_hidden_layers)) - set(watched.layers)
    if missing:
        raise RefusedError(f"layers {sorted(missing)} do not use the attention interface")
    positions = spread_positions(GATE_TOKENS, limit, ids.device)
    measuring = Measuring(watched.layers, positions, [*candidates, None])
    _forward(model, (), ids, measuring, 1)
    geometries = [measuring.found[index] for index in range(config.num_hidden_layers)]
    if not any(geometries):
        raise RefusedError("no layer has rotary positions")
    windows = _windows(model, ids, limit)
    layers = tuple(LayerKind(*each) for each in zip(geometries, windows, strict=True))
    return layers, _shapes(watched.layers, geometries)


def _shapes(
    watched: Mapping[int, Seen], geometries: Sequence[RotaryGeometry | None]
) -> list[Shape]:
    """Return the kinds of layers that there are for an executor."""
    found: dict[object, Shape] = {}
    for index, geometry in enumerate(geometries):
        seen = watched[index]
        query, (_, kv_heads, _, _) = seen.query, seen.key.shape
        layer = Layer(0, geometry, seen.scaling, seen.softcap)
        heads, dim = query.shape[1], query.shape[3]
        key = (id(geometry), seen.scaling, seen.softcap, heads, kv_heads, dim, query.device)
        found[key] = Shape(layer, heads, kv_heads, dim, query.dtype, query.device)
    return list(found.values())


@torch.inference_mode()
def _compare_plain(
    model: PreTrainedModel, layers: tuple[LayerKind, ...], executor: Executor
) -> None:
    """Raise `RefusedError` unless the plain reading equals the model as its authors meant it."""
    ids, reading = _random_ids(model), PlainReading()
    written, nudged = _written(model, ids)
    pieces = [ids[:, :GATE_PREFILL], *torch.split(ids[:, GATE_PREFILL:], 1, 1)]
    reader = Alone(reading, executor)
    logits = torch.cat([_forward(model, layers, piece, reader, 0) for piece in pieces], 1)
    compare("the plain reading", logits, written, nudged)


def _random_ids(model: PreTrainedModel) -> Tensor:
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (1, GATE_TOKENS), generator=generator).to(entrance(model))


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
        attention_mask=causal_mask(positions, positions)[None, None],
        use_cache=False,
        watch=watch,
    )
    return watch


def _candidates(model: PreTrainedModel) -> list[RotaryGeometry]:
    """Return every geometry that the model's own buffers allow, whatever device they are on."""
    found: list[Tensor] = []
    for _, buffer in content(model, _says_frequencies):
        frequencies = buffer.float().cpu()
        if not any(torch.equal(frequencies, other) for other in found):
            found.append(frequencies)
    return [RotaryGeometry(each, layout) for each in found for layout in LAYOUTS]


def _says_frequencies(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    return last.endswith("inv_freq") and "original" not in last


def _windows(model: PreTrainedModel, ids: Tensor, limit: int) -> list[int | None]:
    """Return how many tokens each layer's rows see; refuse layers that see any other part.

    The model builds its masks for four tokens that stand for others: the first and the last of its
    range, and the two on either side of where the last one's window ends.
    """
    said = _seen_between(model, ids, torch.tensor([0, max(limit - 1, 1)]))
    windows = [
        None if seen.window is None or seen.window >= limit else seen.window for seen in said
    ]
    for window in set(windows):
        edge = limit - 1 if window is None else limit - 1 - window
        places = torch.tensor([0, edge, min(edge + 1, limit - 1), limit - 1])
        found = _seen_between(model, ids, places)
        expected = (limit - 1 - places) < (window or limit)
        other = [
            index
            for index, seen in enumerate(found)
            if windows[index] == window
            and seen.visible is not None
            and not torch.equal(seen.visible[0, 0, -1].cpu().bool(), expected)
        ]
        if other:
            raise RefusedError(f"layers {other} see only a part of the text")
    return windows


def _seen_between(model: PreTrainedModel, ids: Tensor, places: Tensor) -> list[Seen]:
    """Return what layers do with masks for tokens that stand for those at some places."""
    places = places.to(ids.device)

    def between(*, mask_function: Callable[..., Tensor], **rest: Any) -> Tensor:
        mask = mask_function(0, 0, places[:, None], places[None])
        return mask.expand(1, 1, len(places), len(places))

    AttentionInterface.register(GATE, _attention)
    AttentionMaskInterface.register(GATE, between)
    model.set_attn_implementation(GATE)
    watch = Watch()
    model(input_ids=ids[:, : len(places)], use_cache=False, watch=watch)
    model.set_attn_implementation(NAME)
    return [watch.layers[index] for index in sorted(watch.layers)]
