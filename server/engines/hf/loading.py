"""From the files of a model to the model: checked before, while and after it is read."""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gguf import GGML_QUANT_SIZES
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from server.engines.hf.broken import broken
from server.engines.hf.folder import UNQUANTISED, Checkpoint, check_config, quantised, read_folder
from server.engines.hf.gguf.config import config_of
from server.engines.hf.gguf.header import Header, read_header
from server.engines.hf.gguf.tokens import ends_of, tokenizer_of
from server.engines.hf.gguf.weights import state_dict
from server.engines.hf.memory import check_fits
from server.engines.hf.placement import Placement
from server.engines.hf.soundness import (
    check_architecture,
    check_finite,
    check_forward,
    check_loaded,
    check_tokenizer,
)
from server.errors import told

LOG = logging.getLogger(__name__)
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # in GGUF

Read = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def read_model(path: Path, placement: Placement) -> Read:
    """Read a model and its tokenizer.

    path     folder with safetensors, or GGUF file
    returns  the model in eval mode, where it is to compute
    raises   EngineError  it does not fit, or is broken
             PlanError    there is no such device
    """
    spread = placement.device_map is not None
    device = torch.device("cpu") if spread else placement.chosen_device()
    header = read_header(path) if path.is_file() else None
    found = read_folder(path) if header is None else _described(header)
    computing = torch.device("cuda") if spread and torch.cuda.is_available() else device
    dtype = placement.chosen_dtype(found.stored, computing)
    if header is not None:
        _tell(header, dtype)
    if not spread:
        check_fits(found.bytes_in(dtype), device, dtype)
    # the tokenizer first: it is quick, and may be refused
    tokenizer = _tokenizer(path) if header is None else tokenizer_of(header)
    vocabulary = int(found.config.get_text_config(decoder=True).vocab_size)
    check_tokenizer(tokenizer, vocabulary, ())
    with _quiet():
        options = _options(placement, device, dtype)
        if header is None:
            model = _from_folder(path, found, options)
        else:
            model = _from_gguf(header, found, options)
    check_tokenizer(tokenizer, vocabulary, ends(model, tokenizer))
    check_finite(model)
    check_forward(model, tokenizer)
    return model, tokenizer


def ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every id that ends an answer, by any of the places that may name one."""
    sources = (model.generation_config, model.config, tokenizer)
    found: list[int] = []
    for source in sources:
        ids: int | Iterable[int] | None = getattr(source, "eos_token_id", None)
        found += [] if ids is None else [ids] if isinstance(ids, int) else ids
    return frozenset(found)


def _described(header: Header) -> Checkpoint:
    """Return what a GGUF file's header says of its model."""
    if "token_embd.weight" not in header.tensors:
        raise broken("GGUF file must hold token_embd.weight", "none")
    config = config_of(header, ends_of(header))
    check_config(config)
    elements: dict[str, int] = {}
    for tensor in header.tensors.values():
        block, size = GGML_QUANT_SIZES[tensor.kind]
        elements[tensor.kind.name] = elements.get(tensor.kind.name, 0) + tensor.size // size * block
    most = max(elements, key=elements.__getitem__)
    return Checkpoint(config, PLAIN.get(most), sum(elements.values()))


def _tell(header: Header, dtype: torch.dtype) -> None:
    """Say what a GGUF file's numbers become."""
    matrices = [tensor for tensor in header.tensors.values() if len(tensor.shape) > 1]
    count = sum(torch.Size(tensor.shape).numel() for tensor in matrices)
    bits = 8 * sum(tensor.size for tensor in matrices) / max(count, 1)
    name = str(dtype).removeprefix("torch.")
    LOG.info("%s: weights of %.1f bits each become %s", header.path.name, bits, name)


def _options(placement: Placement, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return how transformers is to load."""
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # told by us
    if placement.device_map is not None:
        options |= {"device_map": placement.device_map, "max_memory": placement.max_memory}
        options["offload_folder"] = tempfile.mkdtemp(prefix="evenhand-offload-")
    elif device.type != "cpu":
        options["device_map"] = {"": device}
    return options


def _from_folder(path: Path, found: Checkpoint, options: dict[str, Any]) -> PreTrainedModel:
    load: Any = AutoModelForCausalLM.from_pretrained
    method = quantised(found.config)
    try:
        model, told = load(
            path,
            config=found.config,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **options,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if method is None:
            raise
        raise broken(f"weights quantised by {method} must run here", error, UNQUANTISED) from error
    return _checked(model, told, options)


def _from_gguf(header: Header, found: Checkpoint, options: dict[str, Any]) -> PreTrainedModel:
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(found.config)]
    with torch.device("meta"):
        empty = kind(found.config)
    tensors = state_dict(header, empty, options["dtype"])
    load: Any = kind.from_pretrained
    model, told = load(None, config=found.config, state_dict=tensors, **options)
    return _checked(model, told, options)


def _checked(
    model: PreTrainedModel, told: Mapping[str, Any], options: Mapping[str, Any]
) -> PreTrainedModel:
    """Return a model whose weights are the checkpoint's (EngineError if they are not)."""
    if "offload_folder" in options:
        weakref.finalize(model, shutil.rmtree, options["offload_folder"], ignore_errors=True)
    check_architecture(model)
    check_loaded(told)
    model.requires_grad_(False)  # it comes in eval mode
    return model


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Read a folder's tokenizer (EngineError if there is none)."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # libraries raise anything over a broken file
        raise broken("model must have a tokenizer (tokenizer.json)", told(error)) from error
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from telling what is told here, in one sentence."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
