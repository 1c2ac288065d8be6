"""What fits at a cursor: whether anything is offered there, and where a completion ends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

CLOSING = re.compile(r"""\s*[)\]}>"'`;:,]*\s*""")  # what an editor writes behind the cursor itself
OPENING = re.compile(r".*([:{(\[]|\b(do|then|else|begin))\s*", re.DOTALL)
LINE_END = re.compile(r"\r\n|\r|\n")
PAIRS = {")": "(", "]": "[", "}": "{"}
CLOSERS = frozenset("\"'`") | PAIRS.keys()
TAB = 8  # columns; only the order of two indentations matters


@dataclass(frozen=True, slots=True)
class Shape:
    """What fits at a cursor.

    lines      whether more than one line fits
    indent     of the cursor's line so far, as written
    blank      whether nothing else stands before the cursor on its line
    rest       what stands behind it on its line
    following  the next line with text, stripped
    """

    lines: bool
    indent: str
    blank: bool
    rest: str
    following: str

    @property
    def floor(self) -> int:
        """Return the indentation that a line of this block has at least, columns."""
        return width(self.indent) + (not self.blank)


def shape(before: str, after: str, *, multiline: bool, invoked: bool) -> Shape | None:
    """Return what fits between two texts, or None where nothing shall be offered.

    multiline  whether the user wants blocks
    invoked    asked for by a gesture: offered in the middle of a line too
    """
    line = LINE_END.split(before)[-1]
    rest, *below = LINE_END.split(after, maxsplit=1)
    if not invoked and (CLOSING.fullmatch(rest) is None or not (before + after).strip()):
        return None
    blank = not line.strip()
    return Shape(
        lines=multiline and not rest.strip() and (blank or OPENING.fullmatch(line) is not None),
        indent=line if blank else line[: len(line) - len(line.lstrip())],
        blank=blank,
        rest=rest,
        following=LINE_END.split(below[0].lstrip())[0].strip() if below else "",
    )


def in_word(character: str) -> bool:
    """Say whether a character belongs to a name."""
    return character.isalnum() or character == "_"


def width(line: str) -> int:
    """Return how far a line is indented, columns."""
    expanded = line.expandtabs(TAB)
    return len(expanded) - len(expanded.lstrip(" "))


def kept(text: str, shape: Shape, *, whole: bool) -> tuple[str, bool]:
    """Return how much of what a model wrote belongs here, and whether that is all that will.

    whole  whether the model has finished: its last line is a whole one
    """
    ends = [match.end() for match in LINE_END.finditer(text)]
    if not shape.lines:
        first = LINE_END.search(text)
        return (text, whole) if first is None else (text[: first.start()], True)
    lines = [text[start:end] for start, end in pairwise([0, *ends, len(text)])]
    inner, taken = False, 0
    for index, line in enumerate(lines):
        said, ended = line.strip(), whole or index < len(lines) - 1
        columns = width(shape.indent + line if index == 0 and shape.blank else line)
        if said and ended and said == shape.following and (index or shape.blank):
            return text[:taken], True
        if index and said:
            outside = columns < shape.floor or (shape.floor == 0 and columns == 0 and inner)
            if outside and said[0] in PAIRS and columns >= width(shape.indent):
                return text[: taken + len(line.rstrip("\r\n"))], ended
            if outside:
                return text[:taken], True
        inner = inner or (bool(said) and columns > 0)
        taken += len(line)
    return text, whole


def offered(text: str, shape: Shape, *, cut_off: bool) -> str:
    """Return what is shown of a kept text; empty = nothing.

    cut_off  whether the model had no tokens left, so that the last line may be half a line
    """
    lines = list(LINE_END.finditer(text))
    if cut_off and lines and text[: lines[-1].start()].strip():
        text = text[: lines[-1].start()]
    text = _without_rest(_without_closing(text, shape.rest.strip()), shape.rest.strip())
    return text.rstrip() if text.strip() else ""


def _without_rest(text: str, rest: str) -> str:
    """Return a text without what it repeats at its end: all that stands behind the cursor already.

    Brackets and quotes are another's affair: there it matters what they close.
    """
    if not rest or rest[0] in CLOSERS:
        return text
    return text.rstrip().removesuffix(rest)


def _without_closing(text: str, rest: str) -> str:
    """Return a text up to the bracket or quote that stands behind the cursor already."""
    closing = rest[:1]
    if closing and closing in "\"'`":
        return text.split(closing, 1)[0]
    opened: list[str] = []
    for place, character in enumerate(text):
        if character in PAIRS.values():
            opened.append(character)
        elif character in PAIRS:
            if not opened and character == closing:
                return text[:place]
            if opened and opened[-1] == PAIRS[character]:
                opened.pop()
    return text
