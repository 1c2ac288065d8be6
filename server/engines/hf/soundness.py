"""What makes a loaded model unfit to be served: it would answer, but not as itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kvedit.placement import content
from server.engines.hf.broken import broken, some

TEXT = "The quick brown fox jumps over the lazy dog."
RANDOM = 16  # tokens
AT_ONCE = 2**22  # numbers that are looked at together: no copy of a whole tensor is made


def check_architecture(model: PreTrainedModel) -> None:
    """Refuse weights that were saved from another class than reads them."""
    named = getattr(model.config, "architectures", None) or []
    if named and type(model).__name__.lower() not in [str(name).lower() for name in named]:
        raise broken(
            f"config's model_type ({model.config.model_type}) must be that of its architectures",
            some(named),
            "serve a model that continues text",
        )


def check_loaded(found: Mapping[str, Any]) -> None:
    """Refuse a model that would run on weights other than the checkpoint's.

    found  what transformers says of a load
    """
    for name, stored, wanted in sorted(found["mismatched_keys"], key=str):
        raise broken(f"tensor {name} must be of shape {tuple(wanted)}", tuple(stored))
    if found["missing_keys"]:
        raise broken("weights must be whole", f"none for {some(found['missing_keys'])}")
    if found["unexpected_keys"]:
        raise broken(
            "weights must be those of the model that the config describes",
            f"others too ({some(found['unexpected_keys'])})",
        )
    if found["error_msgs"]:
        raise broken("weights must be loadable", found["error_msgs"][0])


@torch.inference_mode()
def check_finite(model: PreTrainedModel) -> None:
    """Refuse weights of which one is no number: every answer would be none."""
    for name, tensor in content(model):
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        for part in tensor.detach().reshape(-1).split(AT_ONCE):
            # a sum is a number only if all that it adds are; where it overflows, look at each
            if not part.sum(dtype=torch.float32).isfinite() and not part.isfinite().all():
                raise broken(f"tensor {name} must be finite numbers", "NaN or infinity")


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, vocabulary: int, ends: Iterable[int]
) -> None:
    """Refuse a tokenizer whose ids the model cannot take.

    vocabulary  rows of the model's embedding
    ends        ids that end an answer
    """
    if not tokenizer.is_fast:
        raise broken(
            "tokenizer must be a fast one (tokenizer.json)",
            type(tokenizer).__name__,
            "serve a model that is published with one",
        )
    ids = tokenizer.get_vocab()
    if not ids:
        raise broken("tokenizer must have a vocabulary", "an empty one")
    token = max(ids, key=ids.__getitem__)
    if ids[token] >= vocabulary:
        raise broken(
            f"tokenizer's ids must be below the model's vocabulary of {vocabulary}",
            f"{ids[token]} ({token})",
            "fetch the tokenizer that belongs to the model",
        )
    for end in ends:
        if not 0 <= end < vocabulary:
            raise broken(f"end token must be below the vocabulary of {vocabulary}", end)


@torch.inference_mode()
def check_forward(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model whose first answers are no numbers, or the same for every token."""
    text = model.config.get_text_config(decoder=True)
    most = min(RANDOM, int(getattr(text, "max_position_embeddings", RANDOM)))
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(int(text.vocab_size), (most,), generator=generator)
    spelled = torch.tensor(tokenizer(TEXT, add_special_tokens=False)["input_ids"][:most])
    # where the first weights are offloaded, whatever reads them takes its ids there
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    for what, ids in (("a text", spelled), ("random tokens", random)):
        if not ids.numel():
            raise broken(f"tokenizer must spell {TEXT!r}", "no tokens")
        logits: Tensor = model(input_ids=ids[None].to(device), use_cache=False).logits[0]
        if not logits.isfinite().all():
            raise broken(f"logits of {what} must be finite", "NaN or infinity")
        if (logits == logits[:, :1]).all():
            raise broken(f"logits of {what} must differ between tokens", "all the same")
