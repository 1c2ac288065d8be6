"""Tokens as bytes, for the kinds of tokenizers there are."""

from copy import deepcopy

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from server.text.vocabulary import Vocabulary


@pytest.fixture
def pieces() -> PreTrainedTokenizerFast:
    """Return a SentencePiece-like tokenizer with byte fallback, as Llama 2's."""
    vocabulary = {"<s>": 0, "\u2581A": 1, "A": 2, "<0xE6>": 3, "<0x0A>": 4, "\u2581\u2581b": 5}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


def test_pieces_and_fallback_bytes(pieces: PreTrainedTokenizerFast) -> None:
    data = Vocabulary(pieces, 8).data
    assert data == [b"<s>", b" A", b"A", b"\xe6", b"\n", b"  b", b"", b""]


def test_special_tokens_are_known_but_not_shown(pieces: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary(pieces, 6)
    assert (vocabulary.data[0], vocabulary.shown[0]) == (b"<s>", b"")


def test_forms_of_a_label(pieces: PreTrainedTokenizerFast) -> None:
    forms = Vocabulary(pieces, 6).spellings
    assert (forms["A"], forms["b"]) == ((1, 2), (5,))
    assert "<s>" not in forms and "" not in forms


def test_byte_level_tokens_are_their_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    text = "naïve 東京 🦊\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(vocabulary.data[token_id] for token_id in ids) == text.encode()


def test_added_tokens_are_literal(tokenizer: PreTrainedTokenizerFast) -> None:
    other = deepcopy(tokenizer)
    other.add_tokens([AddedToken("é!", normalized=False)])
    assert Vocabulary(other, len(other)).data[len(other) - 1] == "é!".encode()
