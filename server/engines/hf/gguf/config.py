"""From a GGUF file's header to a configuration of transformers.

Written here because transformers' own leaves out what it has no name for (rotary scaling, the width
of a head), so that a file which says such a thing would be read wrongly. Here every word that the
file says of its architecture is used, known to change nothing, or the reason of a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedConfig

from server.engines.hf.broken import broken, some
from server.engines.hf.gguf.header import Header

ELSEWHERE = "give the folder with the original weights"
MODEL_TYPES = {  # llama.cpp's name: transformers'
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "phi3": "phi3",
    "starcoder2": "starcoder2",
}
FIELDS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "norm_epsilon",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
NEEDED = ("context_length", "block_count", "embedding_length", "attention.head_count")
# said elsewhere too, or checked below, or of no effect
KNOWN = frozenset(
    {
        "vocab_size",
        "rope.freq_base",
        "rope.dimension_count",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "attention.value_length",
        "attention.causal",
    }
)
FREQUENCIES = "rope_freqs.weight"  # by what Llama 3 divides each rotary frequency
LLAMA3 = (
    (8.0, 1.0, 4.0, 8192),
    (32.0, 1.0, 4.0, 8192),
)  # of 3.1 and 3.2: factor, low, high, length


def config_of(header: Header, ends: list[int]) -> PreTrainedConfig:
    """Return the configuration that a header describes.

    ends    ids that end an answer
    raises  EngineError  it describes what cannot be read here
    """
    name = header.architecture
    if name not in MODEL_TYPES:
        raise broken(
            f"GGUF file must be of an architecture that is read here ({', '.join(MODEL_TYPES)})",
            name,
            ELSEWHERE,
        )
    said = {
        key.removeprefix(f"{name}."): value
        for key, value in header.metadata.items()
        if key.startswith(f"{name}.")
    }
    missing = [f"{name}.{key}" for key in NEEDED if key not in said]
    if missing:
        raise broken(f"GGUF file must say {missing[0]}", "nothing", "fetch the file again")
    unread = said.keys() - FIELDS - KNOWN
    if unread:
        raise broken(
            "GGUF file must say nothing that is not understood here",
            some(f"{name}.{key}" for key in unread),
            ELSEWHERE,
        )
    fields = {FIELDS[key]: value for key, value in said.items() if key in FIELDS}
    fields["rope_parameters"] = _rotary(header, said)
    fields["vocab_size"] = header.tensors["token_embd.weight"].shape[0]
    fields["tie_word_embeddings"] = "output.weight" not in header.tensors
    for token in ("bos", "padding"):
        fields[f"{token[:3]}_token_id"] = header.metadata.get(f"tokenizer.ggml.{token}_token_id")
    fields["eos_token_id"] = ends or None
    config = AutoConfig.for_model(MODEL_TYPES[name], **fields)
    _check_width(config, said)
    return config


def _rotary(header: Header, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary parameters (EngineError if the file's are of another kind)."""
    found: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": float(said.get("rope.freq_base", 10000.0)),
    }
    scaling, factor = said.get("rope.scaling.type", "none"), said.get("rope.scaling.factor", 1.0)
    if scaling == "linear":
        found |= {"rope_type": "linear", "factor": float(factor)}
    elif scaling == "yarn":
        length = said.get("rope.scaling.original_context_length", said["context_length"])
        found |= {"rope_type": "yarn", "factor": float(factor)}
        found |= {"original_max_position_embeddings": int(length)}
    elif scaling != "none":
        raise broken("GGUF file must scale by linear or yarn", f"{scaling!r}", ELSEWHERE)
    if FREQUENCIES in header.tensors:
        found |= _llama3(header, found)
    return found


def _llama3(header: Header, rotary: Mapping[str, Any]) -> dict[str, Any]:
    """Return Llama 3's scaling that gives the file's divisors: it keeps these alone."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stored = header.tensors[FREQUENCIES]
    divisors = np.fromfile(header.path, np.float32, stored.shape[0], offset=stored.offset)
    width = 2 * stored.shape[0]
    plain = rotary["rope_theta"] ** -(np.arange(0, width, 2) / width)
    for factor, low, high, length in LLAMA3:
        scaling = {
            "rope_type": "llama3",
            "rope_theta": rotary["rope_theta"],
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": length,
        }
        config = AutoConfig.for_model(
            "llama", hidden_size=width, num_attention_heads=1, rope_parameters=scaling
        )
        frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        if np.allclose(plain / frequencies.numpy(), divisors, rtol=1e-4):
            return scaling
    raise broken(
        f"GGUF file's {FREQUENCIES} must be those of Llama 3.1 or 3.2", "others", ELSEWHERE
    )


def _check_width(config: PreTrainedConfig, said: Mapping[str, Any]) -> None:
    """Refuse heads whose width is not what transformers takes them for."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if said.get(key, width) != width:
            raise broken(
                f"GGUF file's {config.model_type}.{key} must be the width of a head, {width}",
                said[key],
                ELSEWHERE,
            )
    if said.get("attention.causal", True) is not True:
        raise broken("GGUF file must hold a model that writes", "one that does not", ELSEWHERE)
