"""The door: neutral without a reading, refused where it cannot be right, and without traces."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import SHAPE, held_by, in_dtype, sharpen, tiny_llama, tiny_qwen2
from reads import each_executor, ids
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTJConfig,
    GPTJForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from kvedit import hf
from kvedit.executors import Executor
from kvedit.group_position import GroupPositionReading
from kvedit.hf import Door, open_door
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from kvedit.reading import LayerKind
from kvedit.rotary import RotaryGeometry

IDS = torch.randint(128, (2, 12), generator=torch.Generator().manual_seed(3))


@each_executor
@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2])
@torch.inference_mode()
def test_plain_reading_equals_stock_in_prefill_and_decode(
    executor: Executor, build: Callable[[], PreTrainedModel]
) -> None:
    model = build()
    stock = model(IDS, use_cache=False).logits
    door, reading = open_door(model, executor), PlainReading()
    assert door.refusal is None
    pieces = [door.forward(IDS[:, rows], reading, keep=0) for rows in (slice(0, 9), slice(9, 10))]
    pieces += [door.forward(IDS[:, 10:], reading, keep=0)]
    torch.testing.assert_close(torch.cat(pieces, 1), stock, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_without_a_reading_the_logits_are_stock_sdpa_to_the_last_bit() -> None:
    model = tiny_llama()
    stock = model(IDS, use_cache=False).logits
    open_door(model)
    assert torch.equal(model(IDS, use_cache=False).logits, stock)


def test_keep_limits_the_logits() -> None:
    with torch.inference_mode():
        logits = open_door(tiny_llama()).forward(IDS, PlainReading(), keep=1)
    assert logits.shape == (2, 1, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fault", ["layout", "width", "scaling", "twice", "none"])
def test_the_gate_sees_a_wrong_geometry(
    fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted faults: a candidate that is wrong must not pass, in any dtype."""
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = in_dtype(tiny_llama(rope_parameters=rope), dtype)
    right = open_door(model).geometries[0]
    assert right is not None
    unscaled = 10000.0 ** (-torch.arange(0, 16, 2).float() / 16)
    wrong = {
        "layout": RotaryGeometry(right.inv_freq, "interleaved"),
        "width": RotaryGeometry(right.inv_freq[: right.width // 4]),
        "scaling": RotaryGeometry(unscaled),
        "twice": RotaryGeometry(right.inv_freq**2 / unscaled),
        "none": None,
    }[fault]
    monkeypatch.setattr(hf, "_candidates", lambda model: [wrong])
    door = open_door(model)
    assert door.refusal is not None
    assert "no rotary layout reproduces the queries and keys of layer 0" in door.refusal


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


def test_changing_frequencies_are_refused() -> None:
    door = open_door(tiny_llama(rope_parameters=DYNAMIC))
    assert door.refusal is not None
    assert "'dynamic' rotary frequencies change" in door.refusal


WINDOW = 16
SLIDING: dict[str, Any] = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}


def mistral() -> PreTrainedModel:
    """Return a model whose layers all see a window."""
    return sharpen(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=WINDOW)), 0)


def gemma2() -> PreTrainedModel:
    """Return a model of a window layer with capped scores and one that sees everything."""
    config = Gemma2Config(**SHAPE, **SLIDING, head_dim=16, attn_logit_softcapping=2.0)
    return sharpen(Gemma2ForCausalLM(config), 0)


def gemma3() -> PreTrainedModel:
    """Return one whose window layer turns by other frequencies, too."""
    config = Gemma3TextConfig(**SHAPE, **SLIDING, head_dim=16)
    return sharpen(Gemma3ForCausalLM(config), 0)


WINDOWED = [
    pytest.param(mistral, [WINDOW, WINDOW], id="Mistral"),
    pytest.param(gemma2, [WINDOW, None], id="Gemma 2"),
    pytest.param(gemma3, [WINDOW, None], id="Gemma 3"),
]
each_windowed = pytest.mark.parametrize(("build", "windows"), WINDOWED)
LONG = ids(7, 60)
LONG_PIECES = (slice(0, 33), slice(33, 40), *(slice(at, at + 1) for at in range(40, 60)))


@each_windowed
def test_each_layer_is_described(
    build: Callable[[], PreTrainedModel], windows: list[int | None]
) -> None:
    door = open_door(build())
    assert door.refusal is None
    assert [layer.window for layer in door.layers] == windows
    assert all(layer.refusal is None and layer.geometry is not None for layer in door.layers)


def test_a_window_as_long_as_the_context_is_none() -> None:
    model = sharpen(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=512)), 0)
    assert [layer.window for layer in open_door(model).layers] == [None, None]


@each_windowed
def test_a_reading_says_whether_it_suits_the_layers(
    build: Callable[[], PreTrainedModel], windows: list[int | None]
) -> None:
    door = open_door(build())
    narrow = [index for index, window in enumerate(windows) if window is not None]
    reason = f"layers {narrow} see only the last {WINDOW} tokens"
    assert door.suits(PlainReading()) is None
    assert door.suits(LmInfiniteReading(4, 32, 32)) is None
    assert door.suits(GroupPositionReading(9)) == reason


def test_what_is_refused_suits_no_reading() -> None:
    door = open_door(tiny_llama(rope_parameters=DYNAMIC))
    assert door.suits(PlainReading()) == door.refusal


@each_executor
@each_windowed
@torch.inference_mode()
def test_plain_reading_equals_stock_beyond_the_window(
    executor: Executor, build: Callable[[], PreTrainedModel], windows: list[int | None]
) -> None:
    model = build()
    model.set_attn_implementation("eager")
    stock = model(LONG, use_cache=False).logits
    door, reading = open_door(model, executor), PlainReading()
    pieces = [door.forward(LONG[:, rows], reading, 0) for rows in LONG_PIECES]
    torch.testing.assert_close(torch.cat(pieces, 1), stock, atol=5e-5, rtol=0)
    whole = PlainReading()
    full = Door(door.model, tuple(LayerKind(each) for each in door.geometries), door.choice, None)
    unmasked = full.forward(LONG, whole, 0)
    assert (unmasked[:, WINDOW:] - stock[:, WINDOW:]).abs().max() > 0.05  # or nothing was tested


@each_windowed
@torch.inference_mode()
def test_a_stock_cache_of_windows_goes_on_as_a_plain_reading(
    build: Callable[[], PreTrainedModel], windows: list[int | None]
) -> None:
    """The model's own cache keeps of a window layer what its next token sees."""
    model = build()
    model.set_attn_implementation("eager")
    stock = model(LONG, use_cache=False).logits
    door, cache = open_door(model), DynamicCache(config=model.config)
    model(LONG[:, :40], past_key_values=cache, logits_to_keep=1)
    held = held_by(cache)
    assert [keys.shape[2] for keys, _ in held.values()] == [
        40 if window is None else window - 1 for window in windows
    ]
    reading = PlainReading.holding(40, held, door.geometries)
    rest = torch.cat([door.forward(piece, reading, 0) for piece in LONG[:, 40:].split(1, 1)], 1)
    torch.testing.assert_close(rest, stock[:, 40:], atol=5e-5, rtol=0)


@each_executor
@each_windowed
@torch.inference_mode()
def test_lm_infinite_leaves_window_layers_as_they_are(
    executor: Executor, build: Callable[[], PreTrainedModel], windows: list[int | None]
) -> None:
    model = build()
    model.set_attn_implementation("eager")
    stock = model(LONG, use_cache=False).logits
    door = open_door(model, executor)
    found = []
    for window in (24, 60):
        reading = LmInfiniteReading(4, window, window)
        found.append(
            torch.cat([door.forward(LONG[:, rows], reading, 0) for rows in LONG_PIECES], 1)
        )
    narrow, wide = found
    torch.testing.assert_close(wide, stock, atol=5e-5, rtol=0)
    torch.testing.assert_close(narrow[:, :24], stock[:, :24], atol=5e-5, rtol=0)
    moved = float((narrow - wide).abs().max())
    assert moved < 1e-4 if None not in windows else moved > 0.01


def test_each_layer_gets_its_own_geometry() -> None:
    config = SmolLM3Config(**SHAPE, no_rope_layers=[1, 0], pad_token_id=0)
    door = open_door(sharpen(SmolLM3ForCausalLM(config), 0))
    assert door.refusal is None
    assert [geometry is None for geometry in door.geometries] == [False, True]


@torch.inference_mode()
def test_a_soft_cap_is_kept_with_and_without_a_reading() -> None:
    """Transformers' own SDPA forgets the cap; eager is the formula as written."""
    config = Gemma2Config(**SHAPE, head_dim=16, sliding_window=512, attn_logit_softcapping=2.0)
    model = sharpen(Gemma2ForCausalLM(config), 0)
    model.set_attn_implementation("eager")
    eager = model(IDS, use_cache=False).logits
    door = open_door(model)
    assert door.refusal is None
    for logits in (model(IDS, use_cache=False).logits, door.forward(IDS, PlainReading(), keep=0)):
        torch.testing.assert_close(logits, eager, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_that_is_more_than_softmax_is_refused_and_left_as_it_was(
    dtype: torch.dtype,
) -> None:
    config = GptOssConfig(**SHAPE, head_dim=16, num_local_experts=2, num_experts_per_tok=1)
    model = in_dtype(sharpen(GptOssForCausalLM(config), 0), dtype)
    for layer in model.model.layers:
        torch.nn.init.constant_(layer.self_attn.sinks, 4.0)
    before = model.config._attn_implementation
    door = open_door(model)
    assert door.refusal is not None
    assert "attention through the door is off by" in door.refusal
    assert model.config._attn_implementation == before


def test_a_model_without_interchangeable_attention_is_refused() -> None:
    config = GPTJConfig(vocab_size=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=8, n_positions=64)
    door = open_door(GPTJForCausalLM(config).eval())
    assert door.refusal is not None
    assert "GPTJForCausalLM" in door.refusal


def fingerprint(model: torch.nn.Module) -> dict[str, object]:
    """Return every attribute of every module by identity, and every tensor by value."""
    seen: dict[str, object] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            seen[f"{name}:{key}"] = (id(value), len(value) if isinstance(value, dict) else None)
        seen[f"{name}:class"] = (id(type(module)), id(type(module).forward))
    for name, tensor in model.state_dict().items():
        seen[f"{name}:value"] = tensor.double().sum().item()
    return seen


def test_a_call_with_a_reading_leaves_no_trace() -> None:
    door = open_door(tiny_llama())
    before = fingerprint(door.model)
    with torch.inference_mode():
        door.forward(IDS, PlainReading())
        door.model(IDS)
    assert fingerprint(door.model) == before
