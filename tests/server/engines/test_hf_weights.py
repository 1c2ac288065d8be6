"""What stands for a model: equal for equal content, another as soon as a tensor or a token is."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from server.engines.hf import HfEngine
from server.engines.hf.placement import Placement
from server.engines.hf.weights import SAMPLES, digest
from server.protocol.replies import fingerprint

Make = Callable[[], LlamaForCausalLM]


def test_equal_models_have_equal_digests(
    make_model: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert digest(make_model(), tokenizer, {1}) == digest(make_model(), tokenizer, {1})


def test_any_replaced_tensor_shows(make_model: Make, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model()
    found = {digest(model, tokenizer, {1})}
    for tensor in model.state_dict().values():
        before = tensor.clone()
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
        found.add(digest(model, tokenizer, {1}))
        tensor.copy_(before)
    assert len(found) == len(model.state_dict()) + 1


@pytest.mark.parametrize("size", [1, 3, 8, 17, 100 * SAMPLES, 100 * SAMPLES + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_element_shows_and_so_does_the_order(
    tokenizer: PreTrainedTokenizerFast, make_model: Make, size: int, dtype: torch.dtype
) -> None:
    model = make_model()
    weights = torch.randn(size + 1, generator=torch.Generator().manual_seed(1)).to(dtype)

    def shown(tensor: torch.Tensor) -> str:
        model.register_buffer("more", tensor)
        return digest(model, tokenizer, {1})

    found = {shown(weights[1:])}  # a view that begins in the middle of a word
    places = {1, min(6, size), size // 2 + 1, size}
    for place in places:
        changed = weights.clone()
        changed[place] += 1
        found.add(shown(changed[1:]))
    if size > 1:
        found.add(shown(weights[1:].flip(0)))
    assert len(found) == len(places) + 1 + (size > 1)
    assert shown(weights[1:].clone()) in found


def test_what_else_decides_an_answer_shows(
    make_model: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    model, other = make_model(), make_model()
    other.config.rms_norm_eps = 0.5
    template, added = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    template.chat_template = "{{ messages }}"
    added.add_tokens(["brown fox"])
    found = {digest(model, each, {1}) for each in (tokenizer, template, added)}
    found |= {digest(model, tokenizer, {1, 2}), digest(other, tokenizer, {1})}
    assert len(found) == 5


def test_folders_of_one_name_and_dtypes_have_their_own_fingerprints(
    make_model: Make, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = make_model()

    def loaded(folder: str, dtype: str = "float32") -> str:
        engine = HfEngine.load(tmp_path / folder / "m", name="m", placement=Placement(dtype=dtype))
        asyncio.run(engine.close())
        info = engine.info
        assert (info.root, info.dtype, info.device) == ("m", dtype, "cpu")
        assert info.executor in ("cpu", "torch")
        assert f"torch {version('torch')}" in info.software
        return fingerprint(engine.info)

    for folder in ("one", "same", "other"):
        if folder == "other":
            model.model.layers[1].mlp.up_proj.weight.data *= 1.001
        model.save_pretrained(tmp_path / folder / "m")
        tokenizer.save_pretrained(tmp_path / folder / "m")
    assert loaded("one") == loaded("one") == loaded("same")
    assert len({loaded("one"), loaded("other"), loaded("one", "bfloat16")}) == 3
