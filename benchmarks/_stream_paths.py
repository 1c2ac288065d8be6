"""How a sentence is read while its translation is written: by groups, or all anew at every READ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmarks._loaded import Model
from benchmarks._sentences import LANGUAGES, Sentence
from kvedit.group_position import GroupPositionReading
from kvedit.plain import PlainReading

MARK = "\u241f"
OFFSET = 512  # position of the first target token: more than any source here has tokens
ASK = "Translate the following {language} sentence into English. Reply with the translation only."


@dataclass(frozen=True)
class Asked:
    """A sentence to translate, in tokens.

    head    of everything before it: system prompt, instruction
    words   of each of its words
    tail    of everything behind it: the turn's end and the assistant's header
    """

    head: tuple[int, ...]
    words: tuple[tuple[int, ...], ...]
    tail: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, sentence: Sentence) -> Asked:
        """Return a sentence in a model's chat template."""
        said = f"{ASK.format(language=LANGUAGES[sentence.language])}\n\n{MARK}"
        turns = [{"role": "user", "content": said}]
        rendered = model.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        head, tail = rendered.split(MARK)
        return cls(model.ids(head), words(model, sentence.source), model.ids(tail))


def words(model: Model, text: str) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each of a text's words; a token belongs to the word that it ends in."""
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends, at = list[int](), 0
    for word in text.split():
        at = text.index(word, at) + len(word)
        ends.append(at)
    parts: list[list[int]] = [[] for _ in ends]
    for token, (_, end) in zip(found.input_ids, found.offset_mapping, strict=True):
        parts[next(number for number, last in enumerate(ends) if end <= last)].append(token)
    return tuple(map(tuple, parts))


class Path(Protocol):
    """A sequence whose source grows while its target does.

    fed   target tokens that were computed
    read  source tokens that were
    """

    fed: int
    seen: int

    def read(self, source: Sequence[int]) -> Tensor:
        """Read more of the source; return the logits behind the target, [vocab]."""
        ...

    def write(self, token: int) -> Tensor:
        """Add to the target; return the logits behind it."""
        ...

    def retract(self, count: int) -> None:
        """Forget the last target tokens; then more is read."""
        ...


class Grouped:
    """Group positions: nothing is read again but the target's last token behind each READ."""

    def __init__(self, model: Model, asked: Asked) -> None:
        self._model, self._pending = model, asked
        self._reading = GroupPositionReading(OFFSET)
        self._target: list[int] = []
        self.fed = self.seen = 0

    def read(self, source: Sequence[int]) -> Tensor:
        """Read more of the source, and the target's last token behind it (see `Path`)."""
        if not self._target:
            self._target = list(self._pending.tail)
            return self._forward((*self._pending.head, *source), self._target)
        self._reading.retract(1)
        return self._forward(source, self._target[-1:])

    def write(self, token: int) -> Tensor:
        """Add to the target (see `Path`)."""
        self._target.append(token)
        return self._forward((), [token])

    def retract(self, count: int) -> None:
        """Forget the last target tokens (see `Path`)."""
        if count:
            self._reading.retract(count)
            del self._target[-count:]

    def _forward(self, source: Sequence[int], target: Sequence[int]) -> Tensor:
        self._reading.feed(len(source))
        self.seen += len(source)
        assert self.seen <= OFFSET, "the target begins behind the source"
        self.fed += len(target)
        return self._model.door.forward(torch.tensor([[*source, *target]]), self._reading)[0, -1]


class Anew:
    """The plain model, which reads everything again whenever there is more of the source."""

    def __init__(self, model: Model, asked: Asked) -> None:
        self._model, self._asked = model, asked
        self._reading = PlainReading()
        self._source, self._target = list(asked.head), list(asked.tail)
        self.fed = self.seen = 0

    def read(self, source: Sequence[int]) -> Tensor:
        """Read all of the source and of the target (see `Path`)."""
        self._source += source
        self._reading = PlainReading()
        self.seen += len(self._source)
        self.fed += len(self._target)
        return self._forward([*self._source, *self._target])

    def write(self, token: int) -> Tensor:
        """Add to the target (see `Path`)."""
        self._target.append(token)
        self.fed += 1
        return self._forward([token])

    def retract(self, count: int) -> None:
        """Forget the last target tokens (see `Path`)."""
        if count:
            del self._target[-count:]

    def _forward(self, tokens: Sequence[int]) -> Tensor:
        return self._model.door.forward(torch.tensor([list(tokens)]), self._reading)[0, -1]


PATHS: Mapping[str, Callable[[Model, Asked], Path]] = {"group positions": Grouped, "all anew": Anew}
