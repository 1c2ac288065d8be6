"""Documents in prompts: parts of text, some of which are an unordered set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from server.errors import PlanError
from server.prompt import Message, Part, Prompt
from server.protocol.common import shown

PLACEHOLDER = "{documents}"
GROUP = "documents"


class Titled(BaseModel):
    """One document: its text, and a title above it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    text: Annotated[str, Field(min_length=1)]
    title: str | None = None

    @property
    def part(self) -> Part:
        """Return the document as a part of the set."""
        above = f"{self.title}\n" if self.title else ""
        return Part(f"{above}{self.text}\n\n", group=GROUP)


def _titled(value: object) -> object:
    """Read a document given as a string."""
    if not isinstance(value, str | dict):
        raise ValueError(
            f"document must be a string or an object with a text, got {shown(value)}; "
            "send one of these"
        )
    return {"text": value} if isinstance(value, str) else value


Document = Annotated[Titled, BeforeValidator(_titled)]


def joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    r"""Join content parts with line ends, as vLLM does; a document keeps one of its own.

    Neighbouring parts without a group become one: ("a", "b") -> ("a\nb",).
    """
    last = len(parts) - 1
    ended = (
        replace(part, text=f"{part.text}\n") if index < last or part.group is not None else part
        for index, part in enumerate(parts)
    )
    return merged(ended)


def merged(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Merge neighbouring parts without a group; drop empty ones."""
    kept: list[Part] = []
    for loose, run in groupby(parts, lambda part: part.group is None):
        together = list(run)
        kept += [Part("".join(part.text for part in together))] if loose else together
    return tuple(part for part in kept if part.text)


def inserted(parts: Sequence[Part], documents: Sequence[Part]) -> tuple[Part, ...]:
    """Put documents where a text says `{documents}`, else before the last text.

    raises  PlanError  if it is said more than once
    """
    texts = [index for index, part in enumerate(parts) if part.group is None]
    said = [index for index in texts if PLACEHOLDER in parts[index].text]
    if sum(parts[index].text.count(PLACEHOLDER) for index in said) > 1:
        raise PlanError(
            f"{PLACEHOLDER} must be written once, got it several times; keep the one that counts",
            param="documents",
        )
    if said:
        before, _, after = parts[said[0]].text.partition(PLACEHOLDER)
        here, put = said[0], [Part(before), *documents, Part(after)]
        return merged([*parts[:here], *put, *parts[here + 1 :]])
    here = texts[-1] if texts else len(parts)
    return merged([*parts[:here], *documents, *parts[here:]])


def inserted_in_chat(messages: Sequence[Message], documents: Sequence[Part]) -> tuple[Message, ...]:
    """Put documents into the last user message; PlanError if there is none."""
    if not documents:
        return tuple(messages)
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise PlanError(
            "documents must have a user message to stand in, got none; "
            "add a message with role 'user'",
            param="documents",
        )
    last = users[-1]
    changed = replace(messages[last], parts=inserted(messages[last].parts, documents))
    return (*messages[:last], changed, *messages[last + 1 :])


def check_count(prompts: Sequence[Prompt], given: int, limit: int) -> None:
    """Check the number of documents in a request.

    given  documents in the field `documents`, before they are put into prompts
    """
    grouped = (sum(len(each.documents) for each in prompt.sets) for prompt in prompts)
    count = max([given, *grouped])
    if count > limit:
        raise PlanError(
            f"documents must number at most {limit}, got {count}; send fewer", param="documents"
        )
