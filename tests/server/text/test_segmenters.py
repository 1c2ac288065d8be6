"""Texts cut as they come: the cuts do not depend on how they came, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.segmenters import SEGMENTERS, segmenter

TEXTS = st.text(alphabet="ab .!?\n\u0e01\u0e31。你é\u0301", max_size=40)
NAMES = st.sampled_from(sorted(SEGMENTERS))


def pieces(name: str, parts: list[str]) -> list[str]:
    cutting = segmenter(name)
    found = [piece for part in parts for piece in cutting.feed(part)]
    return found + cutting.end()


@given(NAMES, st.lists(TEXTS, max_size=6))
def test_however_a_text_comes_it_is_cut_the_same(name: str, parts: list[str]) -> None:
    text = "".join(parts)
    found = pieces(name, parts)
    assert "".join(found) == text
    assert found == pieces(name, [text]) == pieces(name, list(text))


@given(NAMES, TEXTS, TEXTS)
def test_a_piece_that_was_given_stays(name: str, text: str, more: str) -> None:
    given_first = segmenter(name).feed(text)
    assert pieces(name, [text + more])[: len(given_first)] == given_first


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("words", "Le chat  dort.", ["Le", " chat", "  dort."]),
        ("characters", "你好กัน", ["你", "好", "กั", "น"]),
        ("sentences", "It is 3.5. Is it? Yes", ["It is 3.5.", " Is it?", " Yes"]),
        ("sentences", "你好。再见。", ["你好。", "再见。"]),
    ],
)
def test_pieces(name: str, text: str, expected: list[str]) -> None:
    assert pieces(name, [text]) == expected


def test_the_last_word_is_held_back() -> None:
    cutting = segmenter("words")
    assert cutting.feed("Le cha") == ["Le"]
    assert cutting.feed("t") == []
    assert cutting.feed(" ") == [" chat"]
