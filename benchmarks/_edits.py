"""Edits of real source code that nobody chose by hand: the interpreter's own library, by a seed."""

from __future__ import annotations

import keyword
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

NAME = re.compile(r"\b[a-z_][a-z0-9_]{2,}\b")
NUMBER = re.compile(r"\b\d+\b")
OPERATORS = (("==", "!="), (" < ", " >= "), (" > ", " <= "), (" + ", " - "), (" and ", " or "),
             ("True", "False"), ("None", "0"), (" in ", " not in "), ("if ", "while "))  # fmt: skip
CHARACTERS = 3.3  # of a token of code, about
PLACES = (1 / 6, 1 / 2, 5 / 6)  # of an edit in its text
CURSORS = ("near", "half way", "far")
SMALLEST = 8_000  # characters of a file

Lines = list[str]
Make = Callable[[Lines, int, Random], Lines | None]


@dataclass(frozen=True)
class Case:
    """One edit, and where the cursor is then.

    old, new  text up to the cursor, before and after the edit
    rest      what follows it
    """

    file: str
    kind: str
    place: float
    cursor: str
    old: str
    new: str
    rest: str


def sources() -> list[Path]:
    """Return the library's files, in a fixed order, without its tests."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = (path for path in folder.rglob("*.py") if path.stat().st_size >= SMALLEST)
    skipped = {"test", "tests", "site-packages", "idlelib", "lib2to3", "pydoc_data", "encodings"}
    return sorted(path for path in found if not skipped & set(path.relative_to(folder).parts))


def windows(seed: int, files: int, tokens: int) -> Iterator[tuple[str, Lines]]:
    """Yield so many files' names and some lines of each, of about so many tokens."""
    for path in Random(seed).sample(sources(), files):
        random = Random(f"{seed} {path.name}")  # so that more files are these and others
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        starts = [
            at for at, line in enumerate(lines) if line.startswith(("def ", "class ", "import "))
        ]
        most = int(tokens * CHARACTERS)
        fitting = [at for at in starts if sum(map(len, lines[at:])) >= most] or [0]
        kept, length = Lines(), 0
        for line in lines[random.choice(fitting) :]:
            if length + len(line) > most:
                break
            kept.append(line)
            length += len(line)
        if len(kept) > 30:
            yield path.name, kept


def cases(seed: int, files: int, tokens: int, a_file: int, cursors: int) -> Iterator[Case]:
    """Yield edits of all kinds and places in turn, each with so many of its cursors, in turn."""
    random, number = Random(seed + 1), 0
    for name, lines in windows(seed, files, tokens):
        for _ in range(a_file):
            kind = list(KINDS)[number % len(KINDS)]
            place = PLACES[number // len(KINDS) % len(PLACES)]
            number += 1
            found = list(_cursors(name, kind, place, lines, random))
            yield from (found[(number + each) % len(CURSORS)] for each in range(cursors) if found)


def edited(lines: Lines, kind: str, place: float, random: Random) -> tuple[Lines, int] | None:
    """Return the lines after an edit of some kind, on the first line that allows it, and where."""
    first = int(place * len(lines))
    for at in [*range(first, len(lines) - 12), *range(first - 1, 2, -1)]:
        made = KINDS[kind](lines, at, random) if lines[at].strip() else None
        if made is not None and made != lines:
            return made, at
    return None


def _cursors(name: str, kind: str, place: float, lines: Lines, random: Random) -> Iterator[Case]:
    found = edited(lines, kind, place, random)
    if found is None:
        return
    new, at = found
    more = len(new) - len(lines)
    last = len(new) - 8
    near = min(max(at + more, at) + 2, last)
    for cursor, line in zip(CURSORS, (near, (near + last) // 2, last), strict=True):
        old_text, new_text = "".join(lines[: line - more]), "".join(new[:line])
        yield Case(name, kind, place, cursor, old_text, new_text, "".join(new[line:]))


def _other(lines: Lines, at: int, random: Random) -> str:
    """Return another line, indented as the one at a place."""
    others = [line for line in lines if line.strip() and line.strip() != lines[at].strip()]
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    return indent + random.choice(others).lstrip()


def _insert_line(lines: Lines, at: int, random: Random) -> Lines | None:
    return [*lines[:at], _other(lines, at, random), *lines[at:]]


def _insert_block(lines: Lines, at: int, random: Random) -> Lines | None:
    begin = random.randrange(len(lines) - 4)
    return [*lines[:at], *lines[begin : begin + 4], *lines[at:]]


def _delete(lines: Lines, at: int, random: Random) -> Lines | None:
    return [*lines[:at], *lines[at + random.randint(1, 3) :]]


def _replace(lines: Lines, at: int, random: Random) -> Lines | None:
    return [*lines[:at], _other(lines, at, random), *lines[at + 1 :]]


def _comment(lines: Lines, at: int, random: Random) -> Lines | None:
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    words = re.findall(r"\w+", "".join(random.sample(lines, 3)))[:10]
    return [*lines[:at], f"{indent}# {' '.join(words)}\n", *lines[at:]] if words else None


def _rename(lines: Lines, at: int, random: Random) -> Lines | None:
    names = [name for name in NAME.findall(lines[at]) if not keyword.iskeyword(name)]
    text = "".join(lines)
    names = [name for name in names if len(re.findall(rf"\b{name}\b", text)) > 1]
    if not names:
        return None
    old, new = random.choice(names), random.choice(NAME.findall(text)) + "_2"
    return [re.sub(rf"\b{old}\b", new, line) for line in lines]


def _constant(lines: Lines, at: int, random: Random) -> Lines | None:
    if not NUMBER.search(lines[at]):
        return None
    changed = NUMBER.sub(lambda found: str(int(found[0]) + random.randint(1, 40)), lines[at])
    return [*lines[:at], changed, *lines[at + 1 :]]


def _operator(lines: Lines, at: int, random: Random) -> Lines | None:
    for old, new in OPERATORS:
        if old in lines[at]:
            return [*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :]]
    return None


KINDS: dict[str, Make] = {
    "insert a line": _insert_line,
    "delete lines": _delete,
    "rename": _rename,
    "change a constant": _constant,
    "change an operator": _operator,
    "replace a line": _replace,
    "insert a block": _insert_block,
    "comment": _comment,
}
