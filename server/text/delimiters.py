"""Documents cut out of a prompt at inline delimiters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from server.errors import PlanError
from server.prompt import ChatPrompt, Message, Part, Prompt, TextPrompt

Delimiters = tuple[str, str]
SPACE = re.compile(r"\s*")
INSTRUCTIONS = frozenset({"system", "developer"})  # may mention the delimiters without using them


def cut(prompt: Prompt, delimiters: Delimiters, stage: str) -> Prompt:
    r"""Return the prompt with the text between delimiters made the documents of a set.

    Each document becomes its text and a blank line, as `documents` on the wire do; delimiters and
    the white space after a closing one are dropped: a document reads the same at every place.

    >>> prompt = TextPrompt((Part("Read: <d>one</d> <d>two</d> Now answer."),))
    >>> cut(prompt, ("<d>", "</d>"), "pine").parts
    ... # "Read: " | "one\n\n" | "two\n\n" | "Now answer.", the middle two of one group

    stage   who asks, for the message
    raises  PlanError  if a delimiter is unmatched, or a document empty
    """
    try:
        if isinstance(prompt, ChatPrompt):
            messages = tuple(_message(each, delimiters) for each in prompt.messages)
            return replace(prompt, messages=messages)
        if isinstance(prompt, TextPrompt):
            return replace(prompt, parts=_parts(prompt.parts, delimiters))
    except ValueError as fault:
        raise PlanError(f"stage {stage!r} {fault}", param="stages") from None
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
    read = 0
    while True:
        start = text.find(opening, read)
        before = text[read : start if start >= 0 else len(text)]
        _unmatched(closing in before and opening != closing, closing, before)
        if before:
            yield Part(before)
        if start < 0:
            return
        start += len(opening)
        end = text.find(closing, start)
        document = text[start : end if end >= 0 else len(text)]
        _unmatched(end < 0 or opening in document, opening, document)
        if not document.strip():
            raise ValueError("document must have text, got an empty one; remove it")
        yield Part(document.strip() + "\n\n", group="documents")
        space = SPACE.match(text, end + len(closing))
        assert space is not None, "it matches nothing too"
        read = space.end()


def _unmatched(wrong: bool, delimiter: str, where: str) -> None:
    if wrong:
        raise ValueError(
            f"delimiter {delimiter!r} must have its counterpart, got none near {where[:40]!r}; "
            "close every document before the next one opens"
        )
