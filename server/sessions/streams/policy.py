"""When to read and when to write, decided on the token that the model would say next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

STOPS = ".!?\u2026\u3002\uff01\uff1f\n"  # what ends a sentence, in Chinese and Japanese too
CLOSES = ",;:\uff0c\u3001\uff1b\uff1a" + STOPS  # what ends a word, beside a space


@dataclass(frozen=True)
class Tokens:
    """What a policy must know of a model's tokens.

    text  of a token
    ends  ids that end an answer
    """

    text: Callable[[int], str]
    ends: frozenset[int]

    def begins(self, token: int) -> bool:
        """Return whether a word begins with a token."""
        return token in self.ends or self.text(token)[:1].isspace()

    def closes(self, token: int) -> bool:
        """Return whether the word before a token is whole."""
        return self.begins(token) or self.text(token)[:1] in CLOSES

    def stops(self, token: int) -> bool:
        """Return whether a sentence or the answer ends with a token."""
        return token in self.ends or any(mark in self.text(token) for mark in STOPS)


@dataclass(frozen=True)
class Wait:
    """Read `first` segments, then one for each word (Ma et al. 2019, arXiv 1810.08398).

    first  segments, None = all of them
    hold   while there is more to read, an end is no reason to write, but to read
    """

    first: int | None = 5
    hold: bool = True

    def waits(self, tokens: Tokens, token: int, word: int, read: int) -> bool:
        """Return whether to read before a token is written, where there is more to read.

        word  index of the target word that it belongs to
        read  source segments that were read
        """
        if self.first is None or read < self.first + word:
            return True
        return self.hold and tokens.stops(token)


@dataclass(frozen=True)
class Agreement:
    """Write what two guesses in a row agree on (Liu et al. 2020, arXiv 2005.11185).

    every  segments that are read between two guesses
    hold   an agreed text ends before a sentence does
    """

    every: int = 2
    hold: bool = True

    def agreed(self, tokens: Tokens, before: Sequence[int], guess: Sequence[int]) -> list[int]:
        """Return what two guesses begin with alike, up to a word's end."""
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(before, guess, strict=False))
        same = [token for token, _ in pairs]
        if self.hold:
            same = list(takewhile(lambda token: not tokens.stops(token), same))
        whole = len(same)
        while whole and whole < len(guess) and not tokens.closes(guess[whole]):
            whole -= 1
        return same[:whole]


Policy = Wait | Agreement
