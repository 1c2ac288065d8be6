"""When to read and when to write: wait-k, local agreement, all at once; greedy, by tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

from torch import Tensor

from benchmarks._loaded import Model
from benchmarks._stream_paths import Asked, Path

MOST = 96  # tokens of a translation
STOPS = ".!?…\n"  # what ends a sentence
CLOSES = ",;:" + STOPS  # what ends a word, beside a space


@dataclass(frozen=True)
class Tokens:
    """What a policy must know of a model's tokens."""

    text: Callable[[int], str]
    ends: frozenset[int]

    @classmethod
    def of(cls, model: Model) -> Tokens:
        """Return a model's own."""
        return cls(lambda token: str(model.tokenizer.decode([token])), model.control)

    def begins(self, token: int) -> bool:
        """Return whether a word begins with a token."""
        return token in self.ends or self.text(token)[:1].isspace()

    def closes(self, token: int) -> bool:
        """Return whether the word before a token is whole."""
        return self.begins(token) or self.text(token)[:1] in CLOSES

    def stops(self, token: int) -> bool:
        """Return whether a sentence or the answer ends with a token."""
        return token in self.ends or any(mark in self.text(token) for mark in STOPS)


@dataclass
class Written:
    """A translation, and how many source words had been read when each token was written."""

    tokens: list[int]
    read: list[int]


@dataclass(frozen=True)
class Wait:
    """Read `first` words, then one for each that is written (Ma et al. 2019, arXiv 1810.08398).

    first  words, None = all of them
    hold   while there is more to read, an end is no reason to write, but to read
    """

    first: int | None
    hold: bool = True

    def __str__(self) -> str:
        if self.first is None:
            return "all"
        return f"wait-{self.first}" + ("" if self.hold else " without hold")

    def run(self, path: Path, asked: Asked, tokens: Tokens) -> Written:
        """Return the translation of a sentence."""
        count, written, word = len(asked.words), Written([], []), 0
        first = count if self.first is None else self.first
        read = min(first, count)
        logits = path.read(list(chain.from_iterable(asked.words[:read])))
        while len(written.tokens) < MOST:
            token = int(logits.argmax())
            its_word = word + (bool(written.tokens) and tokens.begins(token))
            early = read < first + its_word or (self.hold and tokens.stops(token))
            if read < count and early:
                logits = path.read(asked.words[read])
                read += 1
                continue
            if token in tokens.ends:
                break
            word = its_word
            written.tokens.append(token)
            written.read.append(read)
            logits = path.write(token)
        return written


@dataclass(frozen=True)
class Agreement:
    """Write what two guesses in a row agree on (Liu et al. 2020, arXiv 2005.11185).

    every  words that are read between two guesses
    """

    every: int = 2

    def __str__(self) -> str:
        return f"local agreement, every {self.every}"

    def run(self, path: Path, asked: Asked, tokens: Tokens) -> Written:
        """Return the translation of a sentence."""
        written, before, count = Written([], []), list[int](), len(asked.words)
        for begin in range(0, count, self.every):
            read = min(begin + self.every, count)
            logits = path.read(list(chain.from_iterable(asked.words[begin:read])))
            guess = [*written.tokens, *_guess(path, logits, tokens, MOST - len(written.tokens))]
            agreed = guess if read == count else _whole_words(before, guess, tokens)
            agreed = agreed if len(agreed) > len(written.tokens) else written.tokens
            written.read += [read] * (len(agreed) - len(written.tokens))
            path.retract(len(guess) - len(agreed))
            written.tokens, before = list(agreed), guess
        return written


def _guess(path: Path, logits: Tensor, tokens: Tokens, most: int) -> list[int]:
    """Return what the model says up to its end."""
    guess = list[int]()
    while len(guess) < most and (token := int(logits.argmax())) not in tokens.ends:
        guess.append(token)
        logits = path.write(token)
    return guess


def _whole_words(one: Sequence[int], other: Sequence[int], tokens: Tokens) -> list[int]:
    """Return what two guesses begin with alike, up to a word's end and before a sentence's."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    same = list(takewhile(lambda token: not tokens.stops(token), (token for token, _ in pairs)))
    whole = len(same)
    while whole and whole < len(other) and not tokens.closes(other[whole]):
        whole -= 1
    return same[:whole]
