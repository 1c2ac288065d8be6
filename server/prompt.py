"""The nouns of a prompt: text in parts, messages, token ids, and the sets of documents in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

# What a chat may have besides a user's message and a new answer: a system message; a last message
# that the answer continues.
ChatAbility = Literal["system", "continued"]

FillOrder = Literal["psm", "spm"]  # prefix or suffix first


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of text; consecutive parts of one group are the documents of an unordered set.

    literal  text of somebody else's: control tokens in it are spelled, not obeyed
    """

    text: str
    group: str | None = None
    literal: bool = False


Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message: a role and its text in parts."""

    role: str
    parts: Parts
    extra: Mapping[str, Any] = field(default_factory=dict)  # name, tool_calls: for the template


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """A set in a prompt: a maximal run of parts of one group.

    documents  the parts, in the caller's order
    message    index of the message they stand in; 0 in a text prompt
    start      index of the first of them among the message's parts
    """

    documents: Parts
    message: int
    start: int

    def instead(self, parts: Parts, part: Part) -> Parts:
        """Return its message's parts with another in the place of the whole set."""
        return (*parts[: self.start], part, *parts[self.start + len(self.documents) :])


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, used as they are: no special token is added."""

    ids: tuple[int, ...]

    @property
    def sets(self) -> tuple[DocumentSet, ...]:
        """Return nothing: ids have no documents."""
        return ()


@dataclass(frozen=True)  # without slots, where what is found once is kept
class TextPrompt:
    """Text to continue; with `suffix`, text to fill in between (the model's own FIM tokens).

    order  of text and suffix; None = as the model was trained
    """

    parts: Parts
    suffix: str | None = None
    order: FillOrder | None = None

    @cached_property
    def sets(self) -> tuple[DocumentSet, ...]:
        """Return the sets, in order."""
        return _sets((self.parts,))

    def instead(self, found: DocumentSet, part: Part) -> TextPrompt:
        """Return the prompt with one part in the place of a set."""
        return replace(self, parts=found.instead(self.parts, part))


@dataclass(frozen=True)
class ChatPrompt:
    """Messages for the model's chat template.

    continued  the answer goes on where the last message ends, instead of beginning a new one
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    continued: bool = False

    @cached_property
    def sets(self) -> tuple[DocumentSet, ...]:
        """Return the sets, in order; none goes on from one message into the next."""
        return _sets(tuple(message.parts for message in self.messages))

    def instead(self, found: DocumentSet, part: Part) -> ChatPrompt:
        """Return the prompt with one part in the place of a set."""
        messages = list(self.messages)
        changed = messages[found.message]
        messages[found.message] = replace(changed, parts=found.instead(changed.parts, part))
        return replace(self, messages=tuple(messages))


@dataclass(frozen=True, slots=True)
class File:
    """Another file of the repository, or a part of one."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class FillPrompt:
    """An editor's text with a cursor in it; all of it is literal, whatever it spells.

    prefix, suffix  the text before and behind
    begun           what of the answer is there already: the rest of the line before the cursor
    files           others that may help, the oldest first; those that do not fit are left out
    name            of the file, if it is known
    repository      its name, if it is known
    order           None = as the model was trained
    room            new tokens that there must be room for
    """

    prefix: str
    suffix: str
    begun: str = ""
    files: tuple[File, ...] = ()
    name: str = ""
    repository: str = ""
    order: FillOrder | None = None
    room: int = 0

    @property
    def sets(self) -> tuple[DocumentSet, ...]:
        """Return nothing: files are no set."""
        return ()


Prompt = TokenPrompt | TextPrompt | ChatPrompt | FillPrompt


def _sets(messages: tuple[Parts, ...]) -> tuple[DocumentSet, ...]:
    found: list[DocumentSet] = []
    for message, parts in enumerate(messages):
        start = 0
        for group, run in groupby(parts, key=lambda part: part.group):
            documents = tuple(run)
            if group is not None:
                found.append(DocumentSet(documents, message, start))
            start += len(documents)
    return tuple(found)
