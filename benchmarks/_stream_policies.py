"""When to read and when to write: wait-k, local agreement, all at once; greedy, by tokens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from benchmarks._loaded import Model
from benchmarks._stream_paths import Asked, Path
from server.sessions.streams import policy
from server.sessions.streams.policy import Tokens

MOST = 96  # tokens of a translation


def tokens_of(model: Model) -> Tokens:
    """Return what a policy must know of a model's tokens."""
    return Tokens(lambda token: str(model.tokenizer.decode([token])), model.control)


@dataclass
class Written:
    """A translation, and how many source words had been read when each token was written."""

    tokens: list[int]
    read: list[int]


@dataclass(frozen=True)
class Wait(policy.Wait):
    """The server's wait-k, over a whole sentence."""

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
            if read < count and self.waits(tokens, token, its_word, read):
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
class Agreement(policy.Agreement):
    """The server's local agreement, over a whole sentence."""

    def __str__(self) -> str:
        return f"local agreement, every {self.every}"

    def run(self, path: Path, asked: Asked, tokens: Tokens) -> Written:
        """Return the translation of a sentence."""
        written, before, count = Written([], []), list[int](), len(asked.words)
        for begin in range(0, count, self.every):
            read = min(begin + self.every, count)
            logits = path.read(list(chain.from_iterable(asked.words[begin:read])))
            guess = [*written.tokens, *_guess(path, logits, tokens, MOST - len(written.tokens))]
            agreed = guess if read == count else self.agreed(tokens, before, guess)
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
