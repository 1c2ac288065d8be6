"""What each token id stands for, as bytes: text, logprobs and labels are all read from here."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "\u2581"  # SentencePiece writes a space like this


class Vocabulary:
    """The bytes of every token id.

    size     rows of the model's output, which may exceed the tokenizer's ids
    data     bytes by id; a special token's are its name
    shown    the same, but nothing for special tokens: what an answer's text is made of
    special  ids of special tokens
    longest  bytes of the longest token
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self.size = size
        added = tokenizer.added_tokens_decoder
        self.special = frozenset(tokenizer.all_special_ids) | {
            token_id for token_id, token in added.items() if token.special
        }
        tokens: dict[int, str] = {
            token_id: token for token, token_id in tokenizer.get_vocab().items()
        }
        spell = _speller(tokenizer)
        self.data = [b""] * max(size, max(tokens, default=-1) + 1)
        for token_id, token in tokens.items():
            literal = token_id in added or token_id in self.special
            self.data[token_id] = token.encode() if literal else spell(token_id, token)
        self.shown = [
            b"" if token_id in self.special else data for token_id, data in enumerate(self.data)
        ]
        self.longest = max(map(len, self.data), default=0)

    def text(self, token_id: int) -> str:
        """Return one token as text, with U+FFFD for half a character."""
        return self.data[token_id].decode("utf-8", "replace")

    @cached_property
    def spellings(self) -> Mapping[str, tuple[int, ...]]:
        r"""Return the ids by what they say without white space: "A" is also " A" and "A\n"."""
        spellings: dict[str, list[int]] = defaultdict(list)
        for token_id in range(self.size):
            if (text := self.text(token_id).strip()) and token_id not in self.special:
                spellings[text].append(token_id)
        return {text: tuple(ids) for text, ids in spellings.items()}


class _Speller:
    """Turns a token's name into its bytes, by the kind of the tokenizer's decoder."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kinds: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._byte_level = "ByteLevel" in kinds
        self._pieces = bool(kinds & {"Metaspace", "ByteFallback"})
        self._fallback = "ByteFallback" in kinds
        self._bytes = {char: byte for byte, char in _byte_characters()}

    def __call__(self, token_id: int, token: str) -> bytes:
        if self._byte_level:
            if all(char in self._bytes for char in token):
                return bytes(self._bytes[char] for char in token)
            return token.encode()
        if self._pieces:
            if self._fallback and (match := BYTE_TOKEN.fullmatch(token)):
                return bytes.fromhex(match[1])
            return token.replace(SPACE, " ").encode()
        return str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)).encode()


def _speller(tokenizer: PreTrainedTokenizerBase) -> _Speller:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    return _Speller(tokenizer, frozenset(_kinds(state)))


def _kinds(state: Mapping[str, Any]) -> Iterator[str]:
    yield str(state.get("type"))
    for inner in state.get("decoders", ()):
        yield from _kinds(inner)


def _byte_characters() -> Iterator[tuple[int, str]]:
    """Yield each byte with the character byte-level BPE writes for it (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = 0x100
    for byte in range(0x100):
        if byte in printable:
            yield byte, chr(byte)
        else:
            yield byte, chr(moved)
            moved += 1
