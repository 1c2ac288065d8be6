"""A checkpoint in a folder: `config.json` and safetensors, checked before anything is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from server.engines.hf.broken import AGAIN, broken, some
from server.errors import told

UNQUANTISED = "serve the weights that are not quantised, or a GGUF file of the model"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# safetensors' names of types that weights have, and those of whole numbers by their bytes
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "head_dim",
)
SMALL = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")  # above 0, below 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is known of a model before its weights are read.

    stored   type of most of its weights; None = they are quantised
    floats   numbers that get the type the model computes in
    fixed    bytes of what keeps its type
    """

    config: PreTrainedConfig
    stored: torch.dtype | None
    floats: int
    fixed: int = 0

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Return what the weights take in memory."""
        return self.floats * dtype.itemsize + self.fixed


def read_folder(path: Path) -> Checkpoint:
    """Read a folder's configuration and the headers of its weights.

    raises  EngineError  one is missing, cut off, or makes no sense
    """
    config = _config(path)
    _check_quantised(config)
    elements: Counter[str] = Counter()
    for file in _files(path):
        for dtype, count in _tensors(file):
            elements[dtype] += count
    floats = {name: count for name, count in elements.items() if name in FLOATS}
    fixed = sum(
        count * BYTES.get(name, 1) for name, count in elements.items() if name not in FLOATS
    )
    if not floats:
        raise broken("weights must hold tensors of numbers", some(elements) or "none")
    return Checkpoint(config, _stored(config, floats), sum(floats.values()), fixed)


def quantised(config: PreTrainedConfig) -> str | None:
    """Return by what a checkpoint's weights are quantised, or None."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def _check_quantised(config: PreTrainedConfig) -> None:
    """Refuse a way to quantise that transformers would pass over, and read packed numbers plain."""
    method = quantised(config)
    if method is not None and method not in AUTO_QUANTIZER_MAPPING:
        raise broken(
            "weights must be quantised in a way that transformers has", f"{method!r}", UNQUANTISED
        )


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a file (EngineError if there is none)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise broken(f"{path.name} must be readable", error.strerror) from None
    except ValueError as error:
        raise broken(f"{path.name} must be JSON", f"a fault ({error})") from None
    if not isinstance(found, dict):
        raise broken(f"{path.name} must be a JSON object", found)
    return found


def check_config(config: PreTrainedConfig) -> None:
    """Refuse numbers that no model has."""
    text = config.get_text_config(decoder=True)
    for name in COUNTS:
        value = getattr(text, name, None)
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise broken(f"config's {name} must be a whole number from 1 on", repr(value))
    for name in SMALL:
        value = getattr(text, name, None)
        if value is not None and not 0 < float(value) < 1:
            raise broken(f"config's {name} must be between 0 and 1", repr(value))
    heads = getattr(text, "num_attention_heads", None)
    shared = getattr(text, "num_key_value_heads", None)
    if heads and shared and heads % shared:
        raise broken(f"config's num_key_value_heads must divide its {heads} heads", shared)
    for rotary in _rotary(getattr(text, "rope_parameters", None)):
        base = rotary.get("rope_theta")
        if base is not None and not 0 < float(base) < float("inf"):
            raise broken("config's rope_theta must be above 0", repr(base))


def _rotary(found: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield rotary parameters, which may be one set per type of layer."""
    inner: list[Mapping[str, Any]] = [
        each for each in (found or {}).values() if isinstance(each, dict)
    ]
    yield from inner or ([found] if found else [])


def _config(path: Path) -> PreTrainedConfig:
    said = read_json(path / CONFIG)
    if "model_type" not in said:
        raise broken(f"{CONFIG} must name a model_type", "none")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # libraries raise anything over a broken file
        raise broken(
            f"{CONFIG} must describe a model that transformers has",
            told(error, lines=2),
            "serve another model",
        ) from error
    check_config(config)
    return config


def _files(path: Path) -> list[Path]:
    """Return the files of the weights (EngineError if one is missing)."""
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if not (path / INDEX).is_file():
        others = [each.name for each in path.iterdir() if each.suffix in {".bin", ".pt", ".gguf"}]
        raise broken(
            f"model must hold safetensors ({WEIGHTS} or {INDEX})",
            some(others) or "none",
            "give one of its .gguf files"
            if any(".gguf" in each for each in others)
            else "serve a model that is published so, or convert it",
        )
    placed = read_json(path / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise broken(f"{INDEX} must have a weight_map", repr(placed))
    names = sorted({str(name) for name in placed.values()})
    missing = [name for name in names if Path(name).name != name or not (path / name).is_file()]
    if missing:
        raise broken(f"weights must be there whole ({len(names)} files)", f"no {some(missing)}")
    return [path / name for name in names]


def _tensors(file: Path) -> Iterator[tuple[str, int]]:
    """Yield type and number of elements of each tensor of a file."""
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  it is no mapping
                found = opened.get_slice(name)
                yield found.get_dtype(), prod(found.get_shape())
    except (SafetensorError, OSError) as error:
        raise broken(f"{file.name} must be whole", f"a fault ({error})", AGAIN) from None


def _stored(config: PreTrainedConfig, floats: Mapping[str, int]) -> torch.dtype | None:
    """Return the type that a checkpoint says it is in, else that of most of its weights."""
    if quantised(config) is not None:
        return None
    said = config.dtype or config.get_text_config(decoder=True).dtype
    return said if isinstance(said, torch.dtype) else FLOATS[max(floats, key=floats.__getitem__)]
