"""A fitted model is the model, in other bits; nothing of it is held twice."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import SHAPE, sharpen
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from kvedit.hf import fit_kernels, open_door
from kvedit.kernels import choice, fit
from kvedit.kernels.attention import Attention
from kvedit.kernels.choice import Choice
from kvedit.kernels.gated import Gated
from kvedit.kernels.linear import Embedding, Linear
from kvedit.kernels.norm import Norm
from kvedit.kernels.weights import Packed, Unpacked, packed_order
from kvedit.plain import PlainReading

PACKED = Choice("packed", 2)
FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**{**SHAPE, **more})),
    "qwen2": lambda **more: Qwen2ForCausalLM(Qwen2Config(**{**SHAPE, **more})),
    "qwen3": lambda **more: Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "head_dim": 16, **more})),
    "gemma": lambda **more: GemmaForCausalLM(GemmaConfig(**{**SHAPE, "head_dim": 16, **more})),
    "mixtral": lambda **more: MixtralForCausalLM(
        MixtralConfig(**{**SHAPE, "num_local_experts": 2, **more})
    ),
}

# oneDNN packs no bfloat16 where the processor has no AVX-512: `choose` measures that, and leaves it
HALF = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 in oneDNN here"
    ),
)


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack every model, however small, without measuring."""
    if packed_order(torch.float32) is None:
        pytest.skip("oneDNN packs in another order here")
    monkeypatch.setattr(fit, "SMALL", 0)
    monkeypatch.setattr(fit, "choose", lambda weights, packing=True: _chosen(packing))


def _chosen(packing: bool) -> Choice:
    return PACKED if packing else Choice("unpacked")


def make(family: str, dtype: torch.dtype = torch.float32, **more: Any) -> PreTrainedModel:
    model = sharpen(FAMILIES[family](**more), 0)
    model.to(dtype)  # type: ignore[arg-type]  # transformers' own wrapper hides the signature
    model.set_attn_implementation("sdpa")
    model.eval()
    model.requires_grad_(False)
    return model


def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return the logits of a prompt, then of each token alone, as a server reads."""
    with torch.inference_mode():
        cache = model(input_ids=ids[:, :8], use_cache=True)
        found, past = [cache.logits], cache.past_key_values
        for index in range(8, ids.shape[1]):
            step = model(input_ids=ids[:, index : index + 1], past_key_values=past)
            found.append(step.logits)
    return torch.cat(found, 1)


IDS = torch.randint(128, (1, 12), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_stay_those_of_the_model(family: str, tied: bool) -> None:
    model = make(family, tie_word_embeddings=tied)
    expected = logits(model, IDS)
    assert fit_kernels(model)
    assert any(isinstance(module, Linear) for module in model.modules())
    found = logits(model, IDS)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_reading_agrees_with_the_fitted_model(family: str, dtype: torch.dtype) -> None:
    model = make(family, dtype)
    fit_kernels(model)
    kinds = {type(module) for module in model.modules()}
    assert {Linear, Norm, Gated, Attention} <= kinds
    door = open_door(model)  # whose gate reads a prompt, then token by token
    assert door.refusal is None
    reading, expected = PlainReading(), logits(model, IDS)
    pieces = (IDS[:, :8], *IDS[:, 8:].split(1, 1))
    with torch.inference_mode():
        found = torch.cat([door.forward(piece, reading, 0) for piece in pieces], 1)
    allowed = 2e-5 if dtype is torch.float32 else 0.05
    assert (found - expected).abs().max() <= allowed * expected.abs().max()


@pytest.mark.parametrize("tied", [False, True])
def test_no_weight_is_held_twice(tied: bool) -> None:
    model = make("llama", tie_word_embeddings=tied)
    fit_kernels(model)
    left = {name for name, weight in model.named_parameters() if weight.dim() > 1}
    assert left == (set() if tied else {"model.embed_tokens.weight"})
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert isinstance(head, Linear)
    assert isinstance(embedding, Embedding) is tied
    if isinstance(embedding, Embedding):
        assert isinstance(head.weights, Packed) and isinstance(embedding.weights, Packed)
        assert head.weights.address == embedding.weights.address


def test_a_weight_that_a_stranger_reads_too_stays_as_it_is() -> None:
    model = make("gemma", tie_word_embeddings=True)  # its embedding scales: another class
    fit_kernels(model)
    head = model.get_output_embeddings()
    assert isinstance(head, Linear)
    assert type(head.weights) is Unpacked
    assert isinstance(head.weights.look_up(torch.tensor([1])), Tensor)


def test_a_layer_with_a_hook_stays_as_it_is() -> None:
    model = make("llama")
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    layer.register_forward_hook(lambda *_: None)
    fit_kernels(model)
    assert model.get_submodule("model.layers.0.mlp.up_proj") is layer
    assert isinstance(model.get_submodule("model.layers.1.mlp"), Gated)


class Nosy(nn.Module):
    """A model that reads a layer's weight behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self) -> Tensor:
        return self.layer.weight.sum()


def test_a_model_that_reads_its_layers_weights_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Nosy()
    layer = model.layer
    with caplog.at_level(logging.WARNING):
        assert fit.fit(model, model.forward, attend=_never) == {}
    assert model.layer is layer
    assert "cannot be exchanged" in caplog.text


def _never(*_: object, **__: object) -> tuple[Tensor, None]:
    raise AssertionError


def test_a_small_model_stays_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SMALL", 2**30)
    model = make("llama")
    expected = logits(model, IDS)
    assert fit_kernels(model) == {}
    assert torch.equal(logits(model, IDS), expected)


def test_an_mlp_of_another_kind_keeps_its_own_forward() -> None:
    model = make("gemma")  # gated by GELU, normed by 1 + weight
    fit_kernels(model)
    kinds = {type(module) for module in model.modules()}
    assert not {Gated, Norm} & kinds
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, Linear)
    assert isinstance(layer.weights, Packed)


def test_without_our_loops_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "choose", lambda weights, packing=True: Choice("packed"))
    monkeypatch.setitem(sys.modules, "kvedit.kernels.loops", None)  # as where numba is not
    model = make("llama")
    expected = logits(model, IDS)
    assert fit_kernels(model)
    assert not {Gated, Norm, Attention} & {type(module) for module in model.modules()}
    assert (logits(model, IDS) - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_the_choice_is_shown_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = fit_kernels(make("llama"))
    assert shown["96 x 64"] == "packed, our loop up to 2 rows"
    assert choice.WORTH > 1


@pytest.mark.parametrize("tied", [False, True])
@torch.inference_mode()
def test_logits_of_a_half_model_are_not_rounded(tied: bool) -> None:
    if packed_order(torch.bfloat16) is None:
        pytest.skip("oneDNN packs in another order here")
    model = make("llama", torch.bfloat16, tie_word_embeddings=tied)
    ids = torch.tensor([[5, 9, 2]])
    rounded = model(input_ids=ids, logits_to_keep=1).logits
    fit_kernels(model)
    logits = model(input_ids=ids, logits_to_keep=1).logits
    assert rounded.dtype == torch.bfloat16 and logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
