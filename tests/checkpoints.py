"""Checkpoints on the disk: a sound folder to break, and GGUF files as llama.cpp writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pocket import WEIGHTS

Change = Callable[[Path], object]

ARCHITECTURES = {name: name for name in ("llama", "qwen2", "qwen3", "gemma2", "phi3", "starcoder2")}
KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}


def sound(folder: Path) -> Path:
    """Put a small model that is sound into a folder: the embedded one."""
    return Path(shutil.copytree(WEIGHTS, folder))


def reconfigured(**changes: Any) -> Change:
    """Return what sets fields of the configuration; None takes one away."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: each for key, each in config.items() if each is not None}))

    return change


def reweighted(change: Callable[[dict[str, Tensor]], object]) -> Change:
    """Return what changes the tensors."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return apply


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    fields: dict[str, Any] | None = None,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    divisors: Tensor | None = None,
) -> Path:
    """Write a model as llama.cpp's converter does.

    fields    metadata that is set or, being None, left out, whatever the model says
    kind      how its matrices are packed
    divisors  of the rotary frequencies
    """
    config, name = model.config, ARCHITECTURES[model.config.model_type]
    said: dict[str, Any] = {f"{name}.{key}": getattr(config, field) for key, field in KEYS.items()}
    epsilon = getattr(config, "norm_epsilon", None)
    kind_of = "layer_norm_rms_epsilon" if epsilon is None else "layer_norm_epsilon"
    said[f"{name}.attention.{kind_of}"] = epsilon or config.rms_norm_eps
    said[f"{name}.rope.freq_base"] = float(config.rope_parameters["rope_theta"])
    said |= _tokens(tokenizer) | (fields or {})
    writer = gguf.GGUFWriter(path, name)
    for key, value in said.items():
        if value is not None:
            _add(writer, key, value)
    known = {label: each for each, label in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[name], config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for ours, tensor in model.state_dict().items():
        if ours == "lm_head.weight" and tied:
            continue
        stem, _, last = ours.rpartition(".")
        theirs = names.get_name(stem)
        assert theirs is not None, ours
        data = _changed(name, theirs, tensor.detach().float(), config).numpy()
        packed = kind if data.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{theirs}.{last}", gguf.quants.quantize(data, packed), raw_dtype=packed)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:  # noqa: ANN401
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


def _tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the metadata of a byte-level tokenizer."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    tokens = sorted(ids, key=ids.__getitem__)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if ids[token] in special else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _changed(architecture: str, name: str, tensor: Tensor, config: Any) -> Tensor:  # noqa: ANN401
    """Return a tensor as llama.cpp's converter stores it."""
    if architecture == "llama" and name.rpartition(".")[2] in {"attn_q", "attn_k"}:
        of = "num_attention_heads" if name.endswith("attn_q") else "num_key_value_heads"
        halves = tensor.reshape(getattr(config, of), 2, -1, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape).contiguous()
    if architecture == "gemma2" and name.endswith("norm"):
        return tensor + torch.ones_like(tensor)
    return tensor
