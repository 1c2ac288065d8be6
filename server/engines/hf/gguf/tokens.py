"""The tokenizer of a GGUF file, which splits text as the model's own does, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    convert_gguf_tokenizer,
)

from server.engines.hf.broken import broken
from server.engines.hf.gguf.config import ELSEWHERE
from server.engines.hf.gguf.header import Header

# llama.cpp's types of tokens that are taken whole: those that are obeyed, and those that are text
CONTROL, ADDED = 3, 4
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# llama.cpp's names of how text is split; the expressions are in transformers' table
AS_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo"})
DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "codeshell"}
)  # each digit alone, then as GPT-2
AS_QWEN2 = frozenset({"qwen2", "deepseek-r1-qwen"})
AS_LLAMA3 = frozenset({"llama-bpe", "llama3", "llama-v3"})
ENDS = ("eos", "eot", "eom")
# control tokens that end an answer in llama.cpp, whatever else a file says
END_NAMES = frozenset(
    {
        "<|endoftext|>",
        "<|im_end|>",
        "<|end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<|fim_pad|>",
        "</s>",
    }
)
MIDDLE = (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))


def ends_of(header: Header) -> list[int]:
    """Return every id that ends an answer."""
    said = header.metadata
    named = [said.get(f"tokenizer.ggml.{end}_token_id") for end in ENDS]
    types = said.get("tokenizer.ggml.token_type", ())
    tokens = said.get("tokenizer.ggml.tokens", ())
    found = {
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == CONTROL and token in END_NAMES
    }
    return sorted(found | {int(end) for end in named if end is not None})


def tokenizer_of(header: Header) -> PreTrainedTokenizerFast:
    """Return the file's tokenizer (EngineError if it has none that is known here)."""
    said = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    tokens = said.get("tokens")
    kind, split = said.get("model"), said.get("pre")
    if not tokens or kind not in {"gpt2", "llama"}:
        raise broken(
            "GGUF file must have a tokenizer of kind gpt2 or llama",
            f"{kind!r}" if tokens else "none",
            ELSEWHERE,
        )
    if kind == "gpt2" and split not in AS_GPT2 | DIGITS | AS_QWEN2 | AS_LLAMA3:
        raise broken(
            "GGUF file's tokenizer must split text in a way that is known here",
            f"{split!r}",
            ELSEWHERE,
        )
    named = {ours: _token(said, tokens, theirs) for ours, theirs in SPECIAL.items()}
    backend = _backend(header.architecture, said)
    first = named["bos"] if said.get("add_bos_token", _opens(kind, split)) else None
    backend.post_processor = _opening(first, said.get("bos_token_id"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=header.metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        fim_tokens=_middle(said, tokens),
        **{f"{name}_token": token for name, token in named.items() if token is not None},
    )


def _backend(architecture: str, said: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a vocabulary (EngineError if that fails)."""
    try:
        if said["model"] == "gpt2":
            return _bytes(said)
        names = {"model": "tokenizer_type"}
        wanted = ("model", "tokens", "scores", "token_type", "merges")
        given = {names.get(key, key): said[key] for key in wanted if key in said}
        backend: Tokenizer = convert_gguf_tokenizer(architecture, given)[0]
    except Exception as error:  # whatever a vocabulary at fault makes a library raise
        raise broken("GGUF file's vocabulary must be whole", error) from error
    return backend


def _bytes(said: Mapping[str, Any]) -> Tokenizer:
    """Build byte-level BPE; transformers' own would add a token that the vocabulary may lack."""
    tokens, split = said["tokens"], said["pre"]
    backend = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in said["merges"]],
            ignore_merges=split in AS_LLAMA3,  # a word that is a token is taken whole
        )
    )
    if split in AS_QWEN2:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _splitting(split)
    backend.decoder = decoders.ByteLevel()
    kinds = zip(tokens, said.get("token_type", ()), strict=False)
    added = [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in kinds
        if kind in {CONTROL, ADDED}
    ]
    backend.add_tokens(added)
    return backend


def _splitting(split: str) -> pre_tokenizers.PreTokenizer:
    """Return what splits text as the merges were learned."""
    own = GGUF_PRE_TOKENIZER_SPLITS.get(split)
    first: list[pre_tokenizers.PreTokenizer] = []
    if split in DIGITS:
        first.append(pre_tokenizers.Digits(individual_digits=True))
    if own is not None:
        first.append(pre_tokenizers.Split(Regex(own), behavior="isolated"))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own is None)
    return pre_tokenizers.Sequence([*first, last])


def _opens(kind: str, split: str | None) -> bool:
    """Return whether prompts begin with a token where the file does not say."""
    return kind == "llama" or split in AS_LLAMA3


def _opening(token: str | None, token_id: int | None) -> processors.PostProcessor:
    """Return what puts a token before every prompt, or none."""
    if token is None:
        return processors.ByteLevel(trim_offsets=False)
    return processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", token, "$B"], special_tokens=[(token, token_id)]
    )


def _token(said: Mapping[str, Any], tokens: list[str], name: str) -> str | None:
    """Return a token that the file names by its id (EngineError if there is none of that id)."""
    found = said.get(f"{name}_token_id")
    if found is None:
        return None
    if not 0 <= found < len(tokens):
        raise broken(f"GGUF file's {name}_token_id must be below {len(tokens)}", found)
    return str(tokens[found])


def _middle(said: Mapping[str, Any], tokens: list[str]) -> list[str] | None:
    """Return the tokens before text, suffix and answer of a prompt to fill in, if ids name them."""
    found = [_token(said, tokens, new) or _token(said, tokens, old) for new, old in MIDDLE]
    return [token for token in found if token is not None] if all(found) else None
