"""Text as it comes: whole characters, no part of a stop string, the same however it is cut."""

from functools import partial

import pytest
from asking import Ask, usage
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from server.text.answer import TextStream
from server.text.vocabulary import Vocabulary

cuts = st.lists(st.integers(0, 12), max_size=6)


def pieces(data: bytes, widths: list[int]) -> list[bytes]:
    found, start = [], 0
    for width in widths:
        found.append(data[start : start + width])
        start += width
    return [*found, data[start:]]


def read(stops: tuple[str, ...], chunks: list[bytes]) -> tuple[list[str], str | None]:
    stream = TextStream(stops)
    shown = []
    for chunk in chunks:
        shown.append(stream.feed(chunk))
        if stream.stopped is not None:
            break
    return [*shown, stream.end()], stream.stopped


@given(st.data())
def test_deltas_join_to_the_decoded_whole(
    tokenizer_ids: tuple[PreTrainedTokenizerFast, Vocabulary], data: st.DataObject
) -> None:
    tokenizer, vocabulary = tokenizer_ids
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))
    deltas, _ = read((), [vocabulary.shown[token_id] for token_id in ids])
    expected = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(deltas) == expected


@pytest.fixture(scope="module")
def tokenizer_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedTokenizerFast, Vocabulary]:
    return tokenizer, Vocabulary(tokenizer, len(tokenizer) + 3)


@given(st.text(), cuts)
def test_no_delta_holds_half_a_character(text: str, widths: list[int]) -> None:
    deltas, _ = read((), pieces(text.encode(), widths))
    assert "".join(deltas) == text
    assert all("\ufffd" not in delta for delta in deltas if "\ufffd" not in text)


def test_a_character_waits_for_its_last_byte() -> None:
    stream = TextStream()
    assert [stream.feed(bytes([byte])) for byte in "🦊".encode()] == ["", "", "", "🦊"]


def test_what_never_completes_comes_at_the_end() -> None:
    stream = TextStream()
    assert stream.feed("a東".encode()[:3]) == "a"
    assert stream.end() == "\ufffd"


@given(
    st.text("ab\n", max_size=24),
    st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
    cuts,
)
def test_stop_strings_do_not_depend_on_the_cuts(
    text: str, stops: tuple[str, ...], widths: list[int]
) -> None:
    deltas, stopped = read(stops, pieces(text.encode(), widths))
    ends = [(text.index(s) + len(s), text.index(s), s) for s in stops if s in text]
    if not ends:
        assert ("".join(deltas), stopped) == (text, None)
        return
    _, place, stop = min(ends)
    assert ("".join(deltas), stopped) == (text[:place], stop)


def test_a_possible_beginning_is_held_back_and_then_given() -> None:
    stream = TextStream(("END",))
    assert [stream.feed(part) for part in (b"one E", b"N", b"T two")] == ["one ", "", "ENT two"]
    assert stream.stopped is None


def test_stop_across_token_borders(ask: Ask) -> None:
    whole = "".join(chunk.text for chunk in ask("The quick", max_tokens=24))
    stop = whole[5:9]
    chunks = ask("The quick", max_tokens=24, stop=(stop,))
    assert "".join(chunk.text for chunk in chunks) == whole[: whole.index(stop)]
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("stop", stop)
    assert usage(chunks).completion_tokens < 24


def test_a_stop_string_that_does_not_come_changes_nothing(ask: Ask) -> None:
    text = partial(ask, "The quick", max_tokens=24)
    last = "".join(chunk.text for chunk in text())
    chunks = text(stop=(last[-1] + "never",))
    assert "".join(chunk.text for chunk in chunks) == last
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("length", None)


def test_end_token_stops_without_showing_itself(
    ask: Ask, tokenizer: PreTrainedTokenizerFast
) -> None:
    chunks = ask("The quick", logit_bias={tokenizer.eos_token_id: 1000.0})
    assert "".join(chunk.text for chunk in chunks) == ""
    assert [token.text for token in chunks[-1].tokens] == ["<|end|>"]
    assert (chunks[-1].finish_reason, usage(chunks).completion_tokens) == ("stop", 1)


def test_ignore_eos_goes_on_and_shows_no_special_token(
    ask: Ask, tokenizer: PreTrainedTokenizerFast
) -> None:
    bias = {tokenizer.eos_token_id: 1000.0}
    chunks = ask("The quick", logit_bias=bias, ignore_eos=True, max_tokens=5)
    assert "".join(chunk.text for chunk in chunks) == ""
    assert (chunks[-1].finish_reason, usage(chunks).completion_tokens) == ("length", 5)
