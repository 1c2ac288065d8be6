"""An answer cut into units, the smallest pieces that PORTIA moves (spec portia-and-judge 1, 1).

First into blocks, by the Markdown that models write (list items, headings, rows, blank lines,
fenced code), then prose into sentences. Where a language ends those is for sentencex to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sentencex import segment  # type: ignore[import-untyped]

WINDOW = 4096  # characters shown to sentencex at once, whose time is quadratic in some texts

MARKER = re.compile(  # of a list item: "- ", "1. ", "(a) ", "iv) ", "1）", "三、"
    r"\s*(?:[-+*•‣▪◦●–—]\s|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{2,5})[.)]\s"  # noqa: RUF001
    r"|[(（]?\d{1,3}[)）．、]|[一二三四五六七八九十]{1,3}、)\s*"  # noqa: RUF001
)
WHOLE = re.compile(r" {0,3}#{1,6}\s|\s*\|")  # a heading or a row of a table: never cut inside
RULE = re.compile(r"\s*(?:=+|-{2,}|(?:[-*_]\s*){3,})$")  # what stands above it ends there
FENCE = re.compile(r"(\s*)(?:[-+*]\s+|\d{1,4}[.)]\s+)?(`{3,}+(?![^`\n]*`)|~{3,})")
CLOSING = tuple(")]}>,;")  # a line that begins so goes on with the statement above it
SURROGATE = re.compile("[\ud800-\udfff]")  # cannot be encoded, so sentencex cannot read it


def units(text: str, language: str = "en") -> tuple[str, ...]:
    """Return the units of a text, in order.

    language  code of the sentence rules ("de", "zh", ...); an unknown one is read as English
    returns   none is blank, unless the text is; joined they are the text, character for character
    """
    found: list[list[str]] = []
    blank = False  # whether the last unit is, so far
    for block, prose in _blocks(text):
        for piece in _sentences(block, language) if prose else (block,):
            spaces = not piece.strip()
            if found and (spaces or blank):
                found[-1].append(piece)  # space belongs to what stands before it, or else after it
                blank = blank and spaces
            else:
                found.append([piece])
                blank = spaces
    return tuple(map("".join, found))


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines that belong together, and whether they are prose, to be cut at sentences."""
    block: list[str] = []
    kind = True
    for line, begins, prose in _lines(text.splitlines(keepends=True)):
        if begins and block:
            yield "".join(block), kind
            block = []
        if begins or not block:
            kind = prose
        block.append(line)
    if block:
        yield "".join(block), kind


def _lines(lines: Iterable[str]) -> Iterator[tuple[str, bool, bool]]:
    """Yield each line, whether a block begins there, and whether its block is prose."""
    fence = indent = ""  # of the code that is being read
    ended = True  # whether the line before ended its block
    for line in lines:
        bare = line.strip()
        if fence:
            begins = ended and bool(bare) and _is_statement(line, indent)
            closes = len(bare) >= len(fence) and set(bare) == {fence[0]}
            yield line, begins and not closes, False
            fence, ended = ("", True) if closes else (fence, not bare)
        elif opened := FENCE.match(line):
            indent, fence = opened.groups()
            yield line, True, False
            ended = False
        elif not bare:
            yield line, False, True
            ended = True
        else:
            whole, rule = bool(WHOLE.match(line)), bool(RULE.match(line))
            begins = ended or whole or bool(MARKER.match(line))
            yield line, begins, not whole
            ended = whole or rule


def _is_statement(line: str, indent: str) -> bool:
    """Say whether a line after a blank one begins a top-level statement of fenced code."""
    code = line.lstrip()
    return len(line) - len(code) <= len(indent) and not code.startswith(CLOSING)


def _sentences(prose: str, language: str) -> Iterator[str]:
    """Yield the sentences of a block; the marker of a list item stays with the first.

    Every piece is a slice of the block that begins where the last one ended, so that nothing can be
    lost, whatever sentencex answers.
    """
    marker = MARKER.match(prose)
    begin, read = 0, marker.end() if marker else 0
    while read < len(prose):
        window = SURROGATE.sub("\ufffd", prose[read : read + WINDOW])
        lengths = [len(sentence) for sentence in segment(language, window)] or [len(window)]
        if read + len(window) < len(prose):  # the last sentence may go on behind the window
            lengths = lengths[:-1] or [window.rfind(" ") + 1 or WINDOW]
        for length in lengths:
            read += length
            yield prose[begin:read]
            begin = read
    if begin < read:
        yield prose[begin:]
