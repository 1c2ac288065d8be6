"""A text in pieces against a plain string that is copied whole, whatever stands in it."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import PlanError
from server.sessions.text import Encoding, Position, Text

ENCODINGS: tuple[Encoding, ...] = ("utf-16", "utf-8", "utf-32")
CODECS = {"utf-16": ("utf-16-le", 2), "utf-8": ("utf-8", 1), "utf-32": ("utf-32-le", 4)}

# combining marks, astral letters, a joined emoji, and what is a line end elsewhere alone
LETTERS = ("a", "é", "e\u0301", "東", "\U0001d538", "🦊", "👩\u200d🚀", "\0", " ")
ENDS = ("\r", "\n", "\r\n", "\r", "\n", "\f", "\v", "\u2028", "\u2029", "\x85", "\x1c")
MARKS = (*LETTERS, *ENDS)
TEXTS = st.lists(st.sampled_from(MARKS), max_size=12).map("".join)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.6), TEXTS), max_size=12)


class Naive:
    """The same, by copying."""

    def __init__(self, text: str) -> None:
        self.text = text

    def lines(self) -> list[tuple[int, int]]:
        """Return where each line begins, and where its last character ends."""
        found, start = [], 0
        for end in re.finditer("\r\n|\r|\n", self.text):
            found.append((start, end.start()))
            start = end.end()
        return [*found, (start, len(self.text))]

    def offset(self, position: Position, encoding: Encoding) -> int | None:
        """Return the place of a line and column, or None within a character."""
        lines = self.lines()
        if position.line >= len(lines):
            return len(self.text)
        start, end = lines[position.line]
        units = 0
        for place in range(start, end):
            if units >= position.character:
                return place if units == position.character else None
            units += width(self.text[place], encoding)
        return end if units <= position.character else None


def width(text: str, encoding: Encoding) -> int:
    codec, size = CODECS[encoding]
    return len(text.encode(codec)) // size


def changed(text: Text, edits: list[tuple[float, float, str]]) -> tuple[Text, str]:
    """Return a text and its copy after some edits, each anywhere, also between CR and LF."""
    plain = str(text)
    for where, much, new in edits:
        start = int(where * len(plain))
        stop = start + int(much * (len(plain) - start))
        plain = plain[:start] + new + plain[stop:]
        text = text.replace(start, stop, new)
    return text, plain


@given(TEXTS, EDITS, st.integers(1, 5))
def test_edits_give_what_copying_gives(
    opening: str, edits: list[tuple[float, float, str]], size: int
) -> None:
    text, plain = changed(Text.of(opening, size), edits)
    assert str(text) == plain
    assert len(text) == len(plain)
    assert text.nbytes == len(plain.encode())
    assert text.lines == len(Naive(plain).lines()) - 1
    assert text.sha256 == hashlib.sha256(plain.encode()).hexdigest()
    assert text == Text.of(plain)
    for start in range(len(plain) + 1):
        assert text.slice(start, min(start + 5, len(plain))) == plain[start : start + 5]


@given(TEXTS, EDITS, st.integers(1, 5), st.sampled_from(ENCODINGS))
def test_places_are_found_as_in_a_copy(
    opening: str, edits: list[tuple[float, float, str]], size: int, encoding: Encoding
) -> None:
    text, plain = changed(Text.of(opening, size), edits)
    naive = Naive(plain)
    for line, (start, end) in enumerate([*naive.lines(), (len(plain), len(plain))]):
        for column in range(width(plain[start:end], encoding) + 3):
            expected = naive.offset(Position(line, column), encoding)
            if expected is None:
                with pytest.raises(PlanError, match="between two characters"):
                    text.offset(Position(line, column), encoding)
            else:
                assert text.offset(Position(line, column), encoding) == expected
    for place in range(len(plain) + 1):
        inside = plain[max(place - 1, 0) : place + 1] == "\r\n"
        position = text.position(place, encoding)
        assert naive.offset(position, encoding) == place - inside
        assert text.counted(width(plain[:place], encoding), encoding) == place


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_a_place_within_a_character_is_refused(encoding: Encoding) -> None:
    text = Text.of("a🦊b")
    with pytest.raises(PlanError, match="between two characters"):
        text.counted(2, encoding)
    with pytest.raises(PlanError, match="between two characters"):
        text.offset(Position(0, 2), encoding)


@pytest.mark.parametrize("units", [-1, 5])
def test_an_offset_beyond_the_text_is_refused(units: int) -> None:
    with pytest.raises(PlanError, match=f"offset must be 0 to 4 in utf-16, got {units}"):
        Text.of("a🦊b").counted(units, "utf-16")


@given(st.lists(st.sampled_from("ab\r\n"), min_size=2, max_size=12).map("".join), st.data())
def test_no_piece_ends_between_a_return_and_its_feed(opening: str, data: st.DataObject) -> None:
    text = Text.of(opening, 1)
    start = data.draw(st.integers(0, len(opening)))
    stop = data.draw(st.integers(start, len(opening)))
    new = data.draw(st.lists(st.sampled_from("a\r\n"), max_size=4).map("".join))
    text = text.replace(start, stop, new)
    ends = [piece.text for piece in text._pieces]
    assert not any(a[-1] == "\r" and b[0] == "\n" for a, b in pairwise(ends))
    assert text.lines == len(Naive(str(text)).lines()) - 1


def test_a_change_outside_is_refused() -> None:
    with pytest.raises(PlanError, match="got 2 to 1"):
        Text.of("abc").replace(2, 1, "")
    with pytest.raises(PlanError, match="got 2 to 4"):
        Text.of("abc").replace(2, 4, "")


def test_typing_touches_few_pieces_and_leaves_no_crumbs() -> None:
    opening = "x = 1\n" * 50_000
    kept = text = Text.of(opening)
    pieces = len(text._pieces)
    for place in range(150_000, 152_000):
        text = text.replace(place, place, "y")
        assert len(set(map(id, text._pieces)) - set(map(id, kept._pieces))) <= 4
        kept = text
    for place in range(152_000, 150_000, -1):
        text = text.replace(place - 1, place, "")
    assert str(text) == opening
    assert len(text._pieces) <= pieces + 4


def test_what_stands_before_an_edit_is_not_hashed_again() -> None:
    text = Text.of("x = 1\n" * 50_000)
    assert text.sha256 == hashlib.sha256(str(text).encode()).hexdigest()
    later = text.replace(299_000, 299_000, "🦊")
    assert len(later._states) == 299_000 // (64 * 1024) + 1
    assert later.sha256 == hashlib.sha256(str(later).encode()).hexdigest()
    earlier = later.replace(5, 5, "\r")
    assert len(earlier._states) == 1
    assert earlier.sha256 == hashlib.sha256(str(earlier).encode()).hexdigest()
