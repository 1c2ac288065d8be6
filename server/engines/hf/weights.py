"""What stands for a model's content: equal digests are equal weights, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kvedit.placement import content

SAMPLES = 1024  # words of every tensor that are kept as they are
WORD = 8  # bytes


def digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int]) -> str:
    """Return what stands for all that decides an answer: configuration, tensors, tokens.

    Each tensor counts by the sum of its words, which any element changes, and by words from all
    over it, since a sum knows no order. Memory's speed: seconds for the largest models, or that of
    the disk that a part of it lies on.

    tokenizer  a fast one
    ends       ids that end an answer
    """
    found = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in content(model):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(_content(tensor.detach()))
    template, special = tokenizer.chat_template, tokenizer.special_tokens_map
    found.update(tokenizer.backend_tokenizer.to_str().encode())
    found.update(json.dumps([template, special, sorted(ends)], default=str).encode())
    return found.hexdigest()


def _content(tensor: Tensor) -> bytes:
    """Return what stands for a tensor's bits."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if flat.storage_offset() % WORD:
        flat = flat.clone()
    whole = flat.shape[0] // WORD * WORD
    words, rest = flat[:whole].view(torch.int64), flat[whole:].long()
    samples = words[:: max(1, words.shape[0] // SAMPLES)]
    kept = torch.cat([words.sum()[None], samples, rest])  # the sum wraps around
    return kept.cpu().numpy().tobytes()
