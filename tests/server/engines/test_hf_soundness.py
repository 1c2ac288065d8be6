"""A checkpoint that would answer, but not as itself, is refused in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import Change, reconfigured, reweighted, sound
from safetensors.torch import load_file, save_file
from spread import OFFLOADED, offloaded, saved
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from server.engines import registry
from server.engines.hf.soundness import check_finite
from server.errors import EvenhandError
from server.settings import Settings

Q = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


def spoiled(name: str, value: float) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][0, 3] = value

    return reweighted(change)


def without(file: str) -> Change:
    return lambda folder: (folder / file).unlink()


def written(file: str, text: str) -> Change:
    return lambda folder: (folder / file).write_text(text)


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def sharded(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {Q: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def more_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<more {number}>" for number in range(2000)])
    tokenizer.save_pretrained(folder)


def untold(folder: Path) -> None:
    """Leave no tokenizer at all."""
    for path in folder.glob("tokenizer*"):
        path.unlink()


def all_alike(tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"].zero_()


BROKEN: dict[str, tuple[Change, str]] = {
    "a tensor is missing": (
        reweighted(lambda tensors: tensors.pop(Q)),
        rf"weights must be whole, got none for {Q};",
    ),
    "a layer is missing": (
        reconfigured(num_hidden_layers=6),
        r"weights must be whole, got none for model.layers.5.*and \d+ more;",
    ),
    "a tensor too many": (
        reweighted(lambda tensors: tensors.update({"model.extra.weight": torch.ones(2)})),
        r"others too \(model.extra.weight\)",
    ),
    "a layer too many": (reconfigured(num_hidden_layers=4), r"others too \(model.layers.4"),
    "a shape": (
        reweighted(lambda tensors: tensors.update({DOWN: tensors[DOWN][:, :-1].contiguous()})),
        rf"tensor {DOWN} must be of shape \(128, 384\), got \(128, 383\);",
    ),
    "another width": (reconfigured(hidden_size=64), r"tensor .* must be of shape"),
    "fewer heads": (reconfigured(num_attention_heads=2), r"tensor .* must be of shape"),
    "not a number": (spoiled(DOWN, float("nan")), rf"tensor {DOWN} must be finite"),
    "infinite": (spoiled(Q, float("inf")), rf"tensor {Q} must be finite"),
    "numbers that overflow": (spoiled(DOWN, 3e38), r"logits of .* must be finite"),
    "nothing but zeros": (reweighted(all_alike), r"logits of .* must differ between tokens"),
    "weights cut off": (cut_off, r"model.safetensors must be whole, got a fault"),
    "weights empty": (written("model.safetensors", ""), r"model.safetensors must be whole"),
    "no weights": (without("model.safetensors"), r"model must hold safetensors .*got none;"),
    "a shard missing": (sharded, r"weights must be there whole \(1 files\), got no model-00001-of"),
    "no context": (reconfigured(max_position_embeddings=0), r"max_position_embeddings must be"),
    "a vocabulary of none": (reconfigured(vocab_size=0), r"vocab_size must be a whole number"),
    "a negative epsilon": (reconfigured(rms_norm_eps=-1.0), r"rms_norm_eps must be between"),
    "heads that do not divide": (
        reconfigured(num_key_value_heads=3),
        r"num_key_value_heads must divide its 4 heads, got 3;",
    ),
    "text for a number": (reconfigured(hidden_size="wide"), r"config.* must .*hidden_size"),
    "another architecture": (
        reconfigured(architectures=["LlamaForSequenceClassification"]),
        r"model_type \(llama\) must be that of its architectures, got LlamaForSequence",
    ),
    "another model_type": (reconfigured(model_type="mistral"), r"model_type \(mistral\) must be"),
    "a model_type nobody has": (
        reconfigured(model_type="nothing"),
        r"config.json must describe a model that transformers has",
    ),
    "no model_type": (reconfigured(model_type=None), r"config.json must name a model_type"),
    "configuration cut off": (written("config.json", '{"model_ty'), r"config.json must be JSON"),
    "configuration a list": (written("config.json", "[]"), r"config.json must be a JSON object"),
    "no tokenizer": (untold, r"model must have a tokenizer"),
    "tokenizer cut off": (written("tokenizer.json", "{"), r"model must have a tokenizer"),
    "tokens too many": (more_tokens, r"ids must be below the model's vocabulary of 1003, got 300"),
    "an end out of reach": (
        written("generation_config.json", '{"eos_token_id": 5000}'),
        r"end token must be below the vocabulary of 1003, got 5000;",
    ),
    "quantised elsewhere": (
        reconfigured(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}),
        r"weights quantised by gptq must run here, got .*optimum",
    ),
    "quantised by nobody": (
        reconfigured(quantization_config={"quant_method": "sorcery"}),
        r"quantised in a way that transformers has, got 'sorcery';",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_refused(case: str, tmp_path: Path) -> None:
    change, expected = BROKEN[case]
    folder = sound(tmp_path / "model")
    change(folder)
    with pytest.raises(EvenhandError) as raised:
        registry.load(Settings(model=str(folder)))
    said = raised.value.message
    assert re.search(expected, said)
    assert re.fullmatch(r"[^\n]* (must|cannot) [^\n]*, got [^\n]*; [^\n]*[^.]", said)


def test_a_slow_tokenizer_is_refused(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.engines.hf.soundness import check_tokenizer

    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(EvenhandError, match="tokenizer must be a fast one"):
        check_tokenizer(tokenizer, 10**6, ())


def test_what_overflows_in_a_sum_alone_is_sound(make_model: Callable[[], torch.nn.Module]) -> None:

    model = make_model()
    for parameter in model.parameters():
        parameter.data.fill_(3e38)
    check_finite(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", OFFLOADED)
def test_weights_that_lie_elsewhere_are_looked_at_too(how: str, tmp_path: Path) -> None:
    folder, name = saved(tmp_path), "model.embed_tokens.weight"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][-1, 0] = torch.nan  # of a token that no first forward reads
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EvenhandError, match=name):
        check_finite(offloaded(folder, how))
