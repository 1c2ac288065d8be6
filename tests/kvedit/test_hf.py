"""The door: neutral without a reading, refused where it cannot be right, and without traces."""

import pytest
import torch
from models import tiny_llama, tiny_qwen2
from transformers import GPTJConfig, GPTJForCausalLM, MistralConfig, MistralForCausalLM

from kvedit import hf
from kvedit.hf import open_door
from kvedit.plain import Plain
from kvedit.rotary import RotaryGeometry

IDS = torch.randint(128, (2, 12), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen2])
@torch.inference_mode()
def test_plain_reading_equals_stock_in_prefill_and_decode(build) -> None:
    model = build()
    stock = model(IDS, use_cache=False).logits
    door, reading = open_door(model), Plain()
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
        logits = open_door(tiny_llama()).forward(IDS, Plain(), keep=1)
    assert logits.shape == (2, 1, 128)


@pytest.mark.parametrize("fault", ["layout", "width", "scaling", "twice"])
def test_the_gate_sees_a_wrong_geometry(fault: str) -> None:
    """Planted faults: each must be far outside what the gate lets pass."""
    door = open_door(tiny_llama())
    right = door.geometries[0]
    assert right is not None
    wrong = {
        "layout": RotaryGeometry(right.inv_freq, "interleaved"),
        "width": RotaryGeometry(right.inv_freq[: right.width // 4]),
        "scaling": RotaryGeometry(right.inv_freq / 2),
        "twice": RotaryGeometry(right.inv_freq * 2),
    }[fault]
    stock = hf._stock_logits(door.model)
    allowed = hf.GATE_ROUNDINGS * torch.finfo(torch.float32).eps
    assert hf._difference(door.model, door.geometries, stock) < allowed / 10
    assert hf._difference(door.model, (wrong, wrong), stock) > allowed * 100


def test_changing_frequencies_are_refused() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    door = open_door(tiny_llama(rope_parameters=rope))
    assert door.refusal is not None
    assert "'dynamic' rotary frequencies change" in door.refusal


def test_sliding_windows_are_refused() -> None:
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=16,
    )
    door = open_door(MistralForCausalLM(config).eval())
    assert door.refusal is not None
    assert "see only the last 16 tokens" in door.refusal


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
        door.forward(IDS, Plain())
        door.model(IDS)
    assert fingerprint(door.model) == before
