"""The tokenizer: lossless, cut at line ends, labels of one token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pocket import WEIGHTS, data
from pocket.tokenizer import SPECIAL, build
from pocket.words import ATTRIBUTES, NAMES


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(WEIGHTS)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_the_committed_tokenizer_is_built_from_the_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    assert build(0).backend_tokenizer.to_str() == build(0).backend_tokenizer.to_str()
    assert build(0).get_vocab() == tokenizer.get_vocab()


@given(text=st.text())
def test_every_string_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


@pytest.mark.parametrize("text", ["  two  spaces ,and \t tabs\r\n", "x = {'é': '日本 😀'}\n\n\n"])
def test_blanks_survive(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


@given(left=st.text(), right=st.text().filter(lambda text: not text.startswith("\n")))
def test_a_text_may_be_cut_at_a_line_end(
    tokenizer: PreTrainedTokenizerFast, left: str, right: str
) -> None:
    parts = encode(tokenizer, left + "\n") + encode(tokenizer, right)
    assert encode(tokenizer, f"{left}\n{right}") == parts


def test_labels_and_special_tokens_are_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for label in (*data.LABELS, data.TIE):
        (bare,) = encode(tokenizer, label)
        assert encode(tokenizer, f" {label}") == [*encode(tokenizer, " "), bare]
    for token in SPECIAL:
        assert len(encode(tokenizer, token)) == 1


def test_a_name_or_value_is_one_token_wherever_it_stands(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for word in (*NAMES, *(value for each in ATTRIBUTES for value in each.values)):
        tokens = encode(tokenizer, word)
        assert encode(tokenizer, f"in {word}.\n")[-len(tokens) - 2 : -2] == tokens
        assert len(tokens) == (len(word) if word.isdigit() else 1)


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("is 3417") == ["is", "Ġ", "3", "4", "1", "7"]


def test_a_plain_string_gets_one_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.encode("Mira") == [tokenizer.bos_token_id, *encode(tokenizer, "Mira")]


def test_the_chat_template_has_its_shape(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Where does Mira live?"},
        {"role": "assistant", "content": "Oslo"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == (
        "<|bos|><|system|>\nBe short.<|end|>\n<|user|>\nWhere does Mira live?<|end|>\n"
        "<|assistant|>\nOslo<|end|>\n"
    )
    asked = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert asked == text.removesuffix("Oslo<|end|>\n")
    assert "".join(piece.text for piece in data.turn("Where does Mira live?", "Oslo")) in text


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="role must be system, user or assistant, got tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)
