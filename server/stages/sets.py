"""Sets of documents in a prompt: finding them, and cutting them out at inline delimiters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from server.errors import PlanError
from server.job import ChatPrompt, Message, Part, Prompt, TextPrompt

Delimiters = tuple[str, str]
INSTRUCTIONS = frozenset({"system", "developer"})  # may mention the delimiters without using them


def sets(prompt: Prompt) -> list[tuple[Part, ...]]:
    """Return the sets of a prompt: the maximal runs of parts of one group, in order."""
    return [run for parts in _texts(prompt) for run in _runs(parts)]


def _texts(prompt: Prompt) -> Iterator[tuple[Part, ...]]:
    if isinstance(prompt, ChatPrompt):
        yield from (message.parts for message in prompt.messages)
    elif isinstance(prompt, TextPrompt):
        yield prompt.parts


def _runs(parts: tuple[Part, ...]) -> Iterator[tuple[Part, ...]]:
    for group, run in groupby(parts, key=lambda part: part.group):
        if group is not None:
            yield tuple(run)


def cut(prompt: Prompt, delimiters: Delimiters) -> Prompt:
    r"""Return the prompt with the text between delimiters made the documents of a set.

    Each document becomes its text and a blank line, as `documents` on the wire do; delimiters and
    the white space after a closing one are dropped: a document reads the same at every place.

    >>> cut(TextPrompt((Part("Read: <d>one</d> <d>two</d> Now answer."),)), ("<d>", "</d>")).parts
    ... # "Read: " | "one\n\n" | "two\n\n" | "Now answer.", the middle two of one group

    raises  PlanError  if a delimiter is unmatched, or a document empty
    """
    if isinstance(prompt, ChatPrompt):
        return replace(
            prompt, messages=tuple(_message(each, delimiters) for each in prompt.messages)
        )
    if isinstance(prompt, TextPrompt):
        return replace(prompt, parts=_parts(prompt.parts, delimiters))
    return prompt


def _message(message: Message, delimiters: Delimiters) -> Message:
    if message.role in INSTRUCTIONS:
        return message
    return replace(message, parts=_parts(message.parts, delimiters))


def _parts(parts: Iterable[Part], delimiters: Delimiters) -> tuple[Part, ...]:
    pieces: list[Part] = []
    for part in parts:
        pieces += [part] if part.group is not None else _pieces(part.text, delimiters)
    return tuple(pieces)


def _pieces(text: str, delimiters: Delimiters) -> Iterator[Part]:
    opening, closing = delimiters
    while True:
        before, opened, rest = text.partition(opening)
        _unmatched(closing in before and opening != closing, closing, before)
        if before:
            yield Part(before)
        if not opened:
            return
        document, closed, rest = rest.partition(closing)
        _unmatched(not closed or opening in document, opening, rest or document)
        if not document.strip():
            raise PlanError("stage 'pine' document must have text, got an empty one; remove it")
        yield Part(document.strip() + "\n\n", group="documents")
        text = rest.lstrip()


def _unmatched(wrong: bool, delimiter: str, where: str) -> None:
    if wrong:
        raise PlanError(
            f"stage 'pine' delimiter {delimiter!r} must have its counterpart, got none near "
            f"{where[:40]!r}; close every document before the next one opens",
            param="stages",
        )
