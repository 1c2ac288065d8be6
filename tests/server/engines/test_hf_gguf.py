"""A GGUF file is the model that it was made of, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_gguf
from gguf import GGMLQuantizationType
from models import SHAPE, sharpen, tiny_llama, tiny_qwen2
from tokenizers import pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from server.engines.hf.gguf.header import read_header
from server.engines.hf.gguf.tokens import ends_of, tokenizer_of
from server.engines.hf.loading import ends, read_model
from server.engines.hf.placement import Placement
from server.errors import EngineError
from server.text.fim import Filler

TEXTS = (
    "The quick brown fox, isn't it? 12345 and  678\n\n  x\ty",
    "élan naïve 東京 🦊 <|end|> e\u0301",
    " A B",
)


def tiny_qwen3(**changes: Any) -> PreTrainedModel:
    return sharpen(Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "head_dim": 32, **changes})), 0)


def tiny_gemma2(**changes: Any) -> PreTrainedModel:
    fields = {**SHAPE, "head_dim": 16, "query_pre_attn_scalar": 256, **changes}
    model = sharpen(Gemma2ForCausalLM(Gemma2Config(**fields | {"tie_word_embeddings": True})), 0)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.uniform_(-0.5, 0.5)
    return model


def tiny_phi3(**changes: Any) -> PreTrainedModel:
    return sharpen(Phi3ForCausalLM(Phi3Config(**{**SHAPE, "pad_token_id": 2, **changes})), 0)


def tiny_starcoder2(**changes: Any) -> PreTrainedModel:
    fields = {**SHAPE, "norm_epsilon": 1e-3, **changes, "tie_word_embeddings": True}
    model = sharpen(Starcoder2ForCausalLM(Starcoder2Config(**fields)), 0)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.uniform_(-0.5, 0.5)
    return model


Maker = Callable[..., PreTrainedModel]
MAKERS: dict[str, tuple[Maker, dict[str, Any]]] = {
    "llama": (tiny_llama, {}),
    "llama, tied": (lambda **k: tiny_llama(tie_word_embeddings=True, **k), {}),
    "qwen2": (tiny_qwen2, {}),
    "qwen3, wide heads": (tiny_qwen3, {"qwen3.attention.key_length": 32}),
    "gemma2": (
        tiny_gemma2,
        {
            "gemma2.attention.key_length": 16,
            "gemma2.attention.sliding_window": 4096,
            "gemma2.attn_logit_softcapping": 50.0,
            "gemma2.final_logit_softcapping": 30.0,
        },
    ),
    "phi3": (tiny_phi3, {"phi3.attention.sliding_window": 4096, "phi3.rope.dimension_count": 16}),
    "starcoder2": (tiny_starcoder2, {}),
    "llama, linear": (
        lambda **k: tiny_llama(
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}, **k
        ),
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
    ),
}


def written(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    make: Maker = tiny_llama,
    fields: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Path, PreTrainedModel]:
    model = make(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1)
    return write_gguf(folder / "tiny.gguf", model, tokenizer, fields, **options), model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(40)[None]).logits
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_the_model_it_was_made_of(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make, fields = MAKERS[name]
    path, model = written(tmp_path, tokenizer, make, fields)
    read, _ = read_model(path, Placement())
    assert type(read) is type(model)
    torch.testing.assert_close(logits(read), logits(model), rtol=2e-5, atol=2e-5)


def test_llama_3_says_its_scaling_by_divisors_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](
        LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=rope), "cpu"
    )
    plain = 500000.0 ** -(torch.arange(0, 16, 2) / 16)

    def make(**changes: Any) -> PreTrainedModel:
        return tiny_llama(rope_parameters=rope, **changes)

    path, model = written(tmp_path, tokenizer, make, divisors=plain / frequencies)
    read, _ = read_model(path, Placement())
    torch.testing.assert_close(logits(read), logits(model), rtol=1e-4, atol=1e-4)
    path, _ = written(tmp_path, tokenizer, make, divisors=plain / frequencies * 1.01)
    with pytest.raises(EngineError, match=r"must be those of Llama 3.1 or 3.2"):
        read_model(path, Placement())


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_0", "Q4_1"])
def test_packed_weights_are_those_that_the_file_holds(
    kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    packed = GGMLQuantizationType[kind]
    path, model = written(tmp_path, tokenizer, kind=packed)
    read, _ = read_model(path, Placement(dtype="float32"))
    for name, weight in model.named_parameters():
        found = read.get_parameter(name)
        near = {"F16": 1e-3, "BF16": 8e-3, "Q8_0": 2e-2, "Q5_0": 0.15, "Q4_1": 0.15}[kind]
        error = (found - weight).norm() / weight.norm()
        assert error < (near if weight.dim() > 1 else 1e-7), name


def test_half_a_type_is_rounded_once(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path, model = written(tmp_path, tokenizer)
    read, _ = read_model(path, Placement(dtype="bfloat16"))
    for name, weight in model.named_parameters():
        assert torch.equal(read.get_parameter(name), weight.bfloat16()), name


def test_the_tokenizer_splits_as_the_models_own(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path, _ = written(tmp_path, tokenizer)
    read = tokenizer_of(read_header(path))
    for text in TEXTS:
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert read.decode(read(text)["input_ids"]) == tokenizer.decode(
            tokenizer(text)["input_ids"]
        )
    assert read.chat_template == tokenizer.chat_template
    assert (read.bos_token, read.eos_token) == ("<|bos|>", "<|end|>")
    assert len(read) == len(tokenizer)


def test_pieces_of_sentences(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """What stands here by hand: spaces are letters, and what has no piece is bytes."""
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokens += ["\u2581", "a", "b", "ab", "\u2581ab", "\u2581a"]
    tokens += [f"more{at}" for at in range(len(tokenizer) - len(tokens))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    scores = [0.0] * 259 + [-float(at) for at in range(len(tokens) - 259)]
    fields: dict[str, Any] = {"tokens": tokens, "token_type": kinds, "scores": scores}
    fields |= {"model": "llama", "pre": None, "merges": None, "add_bos_token": None}
    fields |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    named = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    read = tokenizer_of(read_header(written(tmp_path, tokenizer, fields=named)[0]))
    assert read("ab a")["input_ids"] == [1, 263, 264]
    assert read("b\u00e9</s>")["input_ids"] == [1, 259, 261, 3 + 0xC3, 3 + 0xA9, 2]
    assert read.decode([263, 264, 261]) == "ab ab"
    assert len(read) == len(tokens)


def test_digits_stand_alone_where_the_file_says_so(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path, _ = written(tmp_path, tokenizer, fields={"tokenizer.ggml.pre": "smollm"})
    read = tokenizer_of(read_header(path))
    own = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    assert read.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXTS[0]) == own.pre_tokenize_str(
        TEXTS[0]
    )
    assert "Ġ1" not in [piece for piece, _ in own.pre_tokenize_str("a 12")]


def test_a_prompt_opens_as_the_file_says(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path, _ = written(tmp_path, tokenizer, fields={"tokenizer.ggml.add_bos_token": False})
    assert tokenizer_of(read_header(path))("A")["input_ids"] == tokenizer("A")["input_ids"][1:]


def test_every_end_token_of_the_file_ends_an_answer(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    fields = {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 8}
    path, _ = written(tmp_path, tokenizer, fields=fields)
    assert ends_of(read_header(path)) == [1, 7, 8]
    assert ends(*read_model(path, Placement())) == {1, 7, 8}


def test_control_tokens_that_end_by_their_name(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    tokens[2], tokens[9] = "<|im_end|>", "</s>"  # the second is text there
    path, _ = written(tmp_path, tokenizer, fields={"tokenizer.ggml.tokens": tokens})
    assert ends_of(read_header(path)) == [1, 2]


def test_the_middle_is_filled_in_by_the_tokens_that_the_file_names(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    fields = {
        f"tokenizer.ggml.fim_{name}_token_id": 20 + at for at, name in enumerate(("pre", "suf"))
    }
    path, _ = written(tmp_path, tokenizer, fields=fields | {"tokenizer.ggml.middle_token_id": 30})
    read = tokenizer_of(read_header(path))

    def ids(text: str) -> tuple[int, ...]:
        return tuple(read(text, add_special_tokens=False)["input_ids"])

    between = Filler(read, 256).between("A", "B", lambda texts: [*map(ids, texts)])
    assert between.ids == (0, 20, *ids("A"), 21, *ids("B"), 30)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "scaling that nobody has": ({"llama.rope.scaling.type": "wavy"}, "scale by linear or yarn"),
    "what is not understood": ({"llama.logit_scale": 2.0}, r"got llama.logit_scale;"),
    "experts": ({"llama.expert_count": 8}, r"got llama.expert_count;"),
    "a part of the head rotates": ({"llama.rope.dimension_count": 8}, "width of a head, 16, got 8"),
    "no context": ({"llama.context_length": None}, "must say llama.context_length, got nothing"),
    "a context of none": ({"llama.context_length": 0}, "max_position_embeddings must be a whole"),
    "a way to split": ({"tokenizer.ggml.pre": "odd"}, "split text in a way .* got 'odd';"),
    "no way to split": ({"tokenizer.ggml.pre": None}, "split text in a way .* got None;"),
    "a tokenizer of words": ({"tokenizer.ggml.model": "bert"}, "of kind gpt2 or llama, got 'bert'"),
    "no tokenizer": ({"tokenizer.ggml.tokens": None}, "of kind gpt2 or llama, got none"),
    "an end beyond": ({"tokenizer.ggml.eos_token_id": 4000}, "eos_token_id must be below .* 4000"),
    "a layer less": ({"llama.block_count": 1}, r"others too \(blk.1"),
    "a layer more": ({"llama.block_count": 3}, "weights must be whole, got none for"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_read_wrongly_is_refused(
    case: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    fields, expected = REFUSED[case]
    path, _ = written(tmp_path, tokenizer, fields=fields)
    with pytest.raises(EngineError, match=expected):
        read_model(path, Placement())


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.99])
def test_a_file_that_is_cut_off(
    share: float, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path, _ = written(tmp_path, tokenizer)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(EngineError, match=r"GGUF file must be whole, got tiny.gguf \("):
        read_model(path, Placement())


@pytest.mark.parametrize("at", [4, 8, 16, 24, 30, 60, 200])
def test_a_damaged_header(at: int, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path, _ = written(tmp_path, tokenizer)
    data = bytearray(path.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(EngineError, match="GGUF file must"):
        read_model(path, Placement())


def test_one_of_several_files(tmp_path: Path) -> None:
    path = tmp_path / "big-00001-of-00003.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(EngineError, match="one of several; merge them"):
        read_model(path, Placement())
