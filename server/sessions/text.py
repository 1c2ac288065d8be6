"""A text that is edited: found by line and column, changed without being copied whole."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from server.errors import PlanError

if TYPE_CHECKING:
    from hashlib import _Hash

Encoding = Literal["utf-16", "utf-8", "utf-32"]  # in what columns, offsets and lengths count

LINE_END = re.compile(r"\r\n|\r|\n")  # as in LSP: no form feed, no U+2028
SIZE = 1024  # characters of a piece when it is cut; it grows to twice that
HASHED = 64  # pieces between two states of the hash that are kept
UNIT = {"utf-16": ("utf-16-le", 2), "utf-8": ("utf-8", 1)}


class Position(NamedTuple):
    """A place in a text, both counted from 0; what a character is, an encoding says."""

    line: int
    character: int


class Piece(NamedTuple):
    """A run of a text, and its lengths; no piece ends between a carriage return and its line feed.

    lines  line ends in it
    utf32, utf16, utf8  length in characters, in code units, in bytes
    """

    text: str
    lines: int
    utf32: int
    utf16: int
    utf8: int


class Text:
    """An immutable text in pieces; a changed one shares all pieces but those of the change.

    Typing into a text of n characters costs n / 1024 steps of C. Offsets count characters (Unicode
    code points, as Python does) where no encoding is named.

    size  of a piece, characters
    """

    __slots__ = ("_pieces", "_size", "_starts", "_states")

    def __init__(
        self, pieces: tuple[Piece, ...], size: int = SIZE, states: Sequence[_Hash] = ()
    ) -> None:
        self._pieces = pieces
        self._size = size
        self._starts: dict[str, list[int]] = {}
        self._states = [*states] or [hashlib.sha256()]

    @classmethod
    def of(cls, text: str, size: int = SIZE) -> Text:
        """Return a text with this content."""
        return cls(tuple(_cut(text, size)), size)

    def __str__(self) -> str:
        return "".join(piece.text for piece in self._pieces)

    def __len__(self) -> int:
        return self._sums("utf32")[-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def nbytes(self) -> int:
        """Return its length in UTF-8."""
        return self._sums("utf8")[-1]

    @property
    def lines(self) -> int:
        """Return how many line ends it has: its last line has this number."""
        return self._sums("lines")[-1]

    @property
    def sha256(self) -> str:
        """Return the hash of its UTF-8; what stands before an edit is not hashed again."""
        states = self._states
        while len(states) <= len(self._pieces) // HASHED:
            start = (len(states) - 1) * HASHED
            states.append(self._hashed(start, start + HASHED))
        return self._hashed((len(states) - 1) * HASHED, len(self._pieces)).hexdigest()

    def slice(self, start: int, stop: int) -> str:
        """Return the characters [start, stop)."""
        first, at = self._found(start)
        last, end = self._found(stop)
        if first == last:
            return self._pieces[first].text[at:end] if self._pieces else ""
        middle = (piece.text for piece in self._pieces[first + 1 : last])
        opening, ending = self._pieces[first].text[at:], self._pieces[last].text[:end]
        return "".join((opening, *middle, ending))

    def replace(self, start: int, stop: int, new: str) -> Text:
        """Return the text with `new` in the place of the characters [start, stop).

        raises  PlanError  if they are none of its characters
        """
        if not 0 <= start <= stop <= len(self):
            raise PlanError(
                f"change must begin before it ends and lie in a text of {len(self)} characters, "
                f"got {start} to {stop}; send the whole text",
                param="changes",
            )
        if not self._pieces:
            return Text.of(new, self._size)
        first, at = self._found(start)
        last, end = self._found(stop)
        middle = f"{self._pieces[first].text[:at]}{new}{self._pieces[last].text[end:]}"
        last += 1
        while first and _joins(self._pieces[first - 1].text, middle, self._size):
            first -= 1
            middle = self._pieces[first].text + middle
        while last < len(self._pieces) and _joins(middle, self._pieces[last].text, self._size):
            middle += self._pieces[last].text
            last += 1
        pieces = (*self._pieces[:first], *_cut(middle, self._size), *self._pieces[last:])
        return Text(pieces, self._size, self._states[: first // HASHED + 1])

    def offset(self, position: Position, encoding: Encoding) -> int:
        """Return the place of a line and column; beyond the line's end it is that end, as in LSP.

        A line beyond the last is the end of the text.

        raises  PlanError  if the column stands within a character
        """
        if position.line > self.lines:
            return len(self)
        index, at = self._line(position.line)
        left = position.character
        while index < len(self._pieces):
            piece = self._pieces[index]
            end = LINE_END.search(piece.text, at) if piece.lines else None
            part = piece.text[at : end.start() if end else None]
            size = _units(part, encoding)
            if left <= size or end:
                return self._sums("utf32")[index] + at + _within(part, min(left, size), encoding)
            left -= size
            index, at = index + 1, 0
        return len(self)

    def position(self, offset: int, encoding: Encoding) -> Position:
        """Return the line and column of a place; between a return and its feed, before both."""
        index, at = self._found(offset)
        before = self._pieces[index].text[:at] if self._pieces else ""
        if before.endswith("\r") and self._pieces[index].text[at : at + 1] == "\n":
            before = before[:-1]
        line, column = self._sums("lines")[index] + _count(before), 0
        while not _count(before) and index:
            column += _units(before, encoding)
            index -= 1
            before = self._pieces[index].text
        ends = [end.end() for end in LINE_END.finditer(before)]
        return Position(line, column + _units(before[ends[-1] if ends else 0 :], encoding))

    def counted(self, units: int, encoding: Encoding) -> int:
        """Return the place behind so many code units from the start.

        raises  PlanError  beyond the text's end, or within a character
        """
        starts = self._sums(encoding.replace("-", ""))
        if not 0 <= units <= starts[-1]:
            raise PlanError(
                f"offset must be 0 to {starts[-1]} in {encoding}, got {units}; "
                "send the whole text if you do not know it",
                param="offset",
            )
        if not self._pieces:
            return 0
        index = min(bisect_right(starts, units), len(self._pieces)) - 1
        inside = _within(self._pieces[index].text, units - starts[index], encoding)
        return self._sums("utf32")[index] + inside

    def _line(self, line: int) -> tuple[int, int]:
        """Return the piece in which a line begins, and where in it."""
        if line == 0:
            return 0, 0
        ends = self._sums("lines")
        index = bisect_left(ends, line) - 1
        found = LINE_END.finditer(self._pieces[index].text)
        for _ in range(line - ends[index] - 1):
            next(found)
        return index, next(found).end()

    def _found(self, offset: int) -> tuple[int, int]:
        """Return the piece that has a character, and where in it; the end is the last one's end."""
        starts = self._sums("utf32")
        index = max(min(bisect_right(starts, offset), len(self._pieces)) - 1, 0)
        return index, offset - starts[index]

    def _sums(self, of: str) -> list[int]:
        """Return how much of something all pieces before each have, and all together."""
        if of not in self._starts:
            self._starts[of] = [*accumulate(map(attrgetter(of), self._pieces), initial=0)]
        return self._starts[of]

    def _hashed(self, start: int, stop: int) -> _Hash:
        state = self._states[start // HASHED].copy()
        state.update("".join(piece.text for piece in self._pieces[start:stop]).encode())
        return state


def _cut(text: str, size: int) -> list[Piece]:
    """Return the pieces of a text; one of up to twice the size stays whole."""
    found, start = [], 0
    while start < len(text):
        stop = start + size if len(text) - start > 2 * size else len(text)
        stop += text[stop - 1 : stop + 1] == "\r\n"
        found.append(_piece(text[start:stop]))
        start = stop
    return found


def _piece(text: str) -> Piece:
    utf16, utf8 = (_units(text, encoding) for encoding in ("utf-16", "utf-8"))
    return Piece(text, _count(text), len(text), utf16, utf8)


def _joins(left: str, right: str, size: int) -> bool:
    """Say whether two neighbours must be one piece, or are so short that they should be."""
    return (left[-1:] == "\r" and right[:1] == "\n") or len(left) + len(right) < size


def _count(text: str) -> int:
    """Return how many line ends a text has."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def _units(text: str, encoding: str) -> int:
    """Return how many code units a text has."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    codec, width = UNIT[encoding]
    return len(text.encode(codec)) // width


def _within(text: str, units: int, encoding: str) -> int:
    """Return how many characters the first code units are (PlanError if they end within one)."""
    if encoding == "utf-32" or text.isascii():
        return units
    codec, width = UNIT[encoding]
    try:
        return len(text.encode(codec)[: units * width].decode(codec))
    except UnicodeDecodeError:
        raise PlanError(
            f"place must be between two characters, got {units} units of {encoding} into one; "
            "send where the whole character begins or ends",
            param="position",
        ) from None
