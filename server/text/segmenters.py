"""Cutting a text that is still coming: a piece is given once nothing behind it can change it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType

Cuts = Callable[[str], Iterator[int]]  # where pieces end for good in a text that goes on

WORD_ENDS = re.compile(r"(?<=\S)(?=\s)")  # a piece is a word and the space before it
SENTENCE_ENDS = re.compile(
    "(?<=[.!?\u2026])(?=\\s)|(?<=[\u3002\uff01\uff1f])(?=[^\u3002\uff01\uff1f])|(?<=\\n)(?=\\S)"
)


class Segmenter:
    """Cuts a text into pieces as it comes; joined they are the text.

    cuts  where pieces end in what is held, all but the last of them for good

    Time is linear in the text as long as pieces are short: what is held is looked at again.
    """

    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts
        self._held: list[str] = []

    def feed(self, text: str) -> list[str]:
        """Return the pieces that are whole with some more text."""
        if not text:
            return []
        self._held.append(text)
        if len(self._held) > 1 and not self._may_end(text):
            return []  # joined once it has an end: a long piece in small steps stays linear
        held = "".join(self._held)
        places = [0, *(cut for cut in self._cuts(held) if 0 < cut < len(held))]
        self._held = [held[places[-1] :]]
        return [held[begin:end] for begin, end in pairwise(places)]

    def end(self) -> list[str]:
        """Return what was held back: nothing more comes."""
        held, self._held = "".join(self._held), []
        return [held] if held else []

    def _may_end(self, text: str) -> bool:
        """Return whether a piece may end in front of, or in, the last text that came."""
        return any(True for _ in self._cuts(self._held[-2][-1:] + text))


def _by(pattern: re.Pattern[str]) -> Cuts:
    return lambda text: (found.start() for found in pattern.finditer(text))


def _characters(text: str) -> Iterator[int]:
    """Yield where characters begin that are no mark on the one before."""
    for place, character in enumerate(text):
        if place and unicodedata.category(character)[0] != "M" and character != "\u200d":
            yield place


SEGMENTERS: Mapping[str, Cuts] = MappingProxyType(
    {"words": _by(WORD_ENDS), "characters": _characters, "sentences": _by(SENTENCE_ENDS)}
)


def segmenter(name: str) -> Segmenter:
    """Return a new segmenter of that name (KeyError)."""
    return Segmenter(SEGMENTERS[name])
