"""The tensors of a GGUF file, each made ready when transformers asks for it.

A tensor is unpacked some rows at a time into the dtype it is to have, so that no more is held than
the model itself; transformers' own reader holds them all in float32 first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from gguf.quants import dequantize
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from server.engines.hf.gguf.config import FREQUENCIES
from server.engines.hf.gguf.header import Header, Stored

AT_ONCE = 2**19  # elements that are unpacked at once: they stay in the caches

Undo = Callable[[Tensor], Tensor]


class LazyTensor:
    """A tensor that is read when somebody takes `[...]` of it, as from safetensors.

    dtype  that it gets
    undo   what llama.cpp did to it, turned back
    """

    def __init__(
        self, path: Path, stored: Stored, dtype: torch.dtype, undo: Undo | None = None
    ) -> None:
        self._path, self._stored, self._dtype, self._undo = path, stored, dtype, undo
        self.shape = torch.Size(stored.shape)

    def __getitem__(self, _: object) -> Tensor:
        stored = self._stored
        rows, width = prod(stored.shape[:-1]), stored.shape[-1]
        size = stored.size // rows
        small = len(stored.shape) == 1  # changed in float32, before it is rounded
        found = torch.empty(rows, width, dtype=torch.float32 if small else self._dtype)
        step = max(1, AT_ONCE // width)
        with self._path.open("rb") as file:
            file.seek(stored.offset)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                packed = np.fromfile(file, np.uint8, count * size).reshape(count, size)
                found[start : start + count] = torch.from_numpy(dequantize(packed, stored.kind))
        tensor = found.reshape(self.shape)
        return (tensor if self._undo is None else self._undo(tensor)).to(self._dtype)


def state_dict(header: Header, model: PreTrainedModel, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Return the file's tensors by the names that a model has for them.

    model  of the file's configuration; its weights may be on the device `meta`
    """
    ours = _names(header, model)
    return {
        ours.get(name, name): LazyTensor(
            header.path, stored, dtype, _undo(header.architecture, name, model.config)
        )
        for name, stored in header.tensors.items()
        if name != FREQUENCIES
    }


def _names(header: Header, model: PreTrainedModel) -> Mapping[str, str]:
    """Return the model's names by the file's."""
    known = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(known[header.architecture], model.config.num_hidden_layers)
    found = {}
    for name in model.state_dict():
        stem, _, last = name.rpartition(".")
        theirs = names.get_name(stem)
        if theirs is not None:
            found[f"{theirs}.{last}"] = name
    return found


def _undo(architecture: str, name: str, config: PreTrainedConfig) -> Undo | None:
    """Return what turns back llama.cpp's change of a tensor, None where it made none."""
    if architecture == "llama" and ".attn_q." in name:
        return lambda tensor: _halved(tensor, config.num_attention_heads)
    if architecture == "llama" and ".attn_k." in name:
        return lambda tensor: _halved(tensor, config.num_key_value_heads)
    if architecture == "gemma2" and name.endswith("norm.weight"):
        return lambda tensor: tensor - 1
    return None


def _halved(tensor: Tensor, heads: int) -> Tensor:
    """Return rows whose rotary pairs are neighbours (0 1 2 3) as two halves (0 2 1 3)."""
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
