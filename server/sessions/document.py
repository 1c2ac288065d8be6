"""What a session is about: one text, or the messages of a chat, and what changes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from server.errors import PlanError
from server.prompt import ChatPrompt, Message, Part, Prompt, TextPrompt
from server.sessions.text import Encoding, Position, Text


@dataclass(frozen=True, slots=True)
class Range:
    """From one position to another."""

    start: Position
    end: Position


@dataclass(frozen=True, slots=True)
class Extent:
    """So many code units from an offset on."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """New text in the place of some of a text; what places count in, an encoding says.

    place    from one position to another, or from an offset on; None = the whole text
    message  which one of a chat; None = the last
    """

    text: str
    place: Range | Extent | None = None
    message: int | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """A new message of a chat.

    message  before which; None = at the end
    """

    role: str
    text: str
    message: int | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """A message of a chat that goes."""

    message: int


Change = Rewrite | Insert | Remove


@dataclass(frozen=True, slots=True)
class Splice:
    """Where a text was changed, in characters."""

    message: int
    start: int
    removed: int
    text: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place that is asked about, in characters of one of the texts."""

    message: int
    offset: int


@dataclass(frozen=True, slots=True)
class Document:
    """One text, or a chat.

    roles  of the messages; empty = it is one text
    """

    texts: tuple[Text, ...]
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> Document:
        """Return a document of one text."""
        return cls((Text.of(text),))

    @property
    def chat(self) -> bool:
        """Return whether it is a chat."""
        return bool(self.roles)

    @property
    def nbytes(self) -> int:
        """Return the length of its texts in UTF-8."""
        return sum(text.nbytes for text in self.texts)

    @property
    def hash(self) -> str:
        r"""Return the SHA-256 of its text in UTF-8.

        Of a chat, of the lines "ROLE HASH\n", with the hash of each message's text.
        """
        if not self.chat:
            return self.texts[0].sha256
        lines = (
            f"{role} {text.sha256}\n" for role, text in zip(self.roles, self.texts, strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def changed(self, change: Change, encoding: Encoding) -> tuple[Document, Splice | None]:
        """Return the document after one change, and where; None = messages came or went.

        raises  PlanError  if it names what is not there
        """
        if isinstance(change, Rewrite):
            return self._rewritten(change, encoding)
        if not self.chat:
            raise PlanError(
                "role and remove must be left out of a change to one text, got one of them; "
                "messages make a session with messages",
                param="changes",
            )
        if isinstance(change, Insert):
            count = len(self.texts)
            at = count if change.message is None else self._message(change.message, count)
            texts = (*self.texts[:at], Text.of(change.text), *self.texts[at:])
            return Document(texts, (*self.roles[:at], change.role, *self.roles[at:])), None
        at = self._message(change.message, len(self.texts) - 1)
        if len(self.texts) == 1:
            raise PlanError(
                "chat must keep a message, got the removal of its last; change its text instead",
                param="changes",
            )
        texts, roles = self.texts, self.roles
        return Document((*texts[:at], *texts[at + 1 :]), (*roles[:at], *roles[at + 1 :])), None

    def cursor(self, place: Position | int | None, encoding: Encoding) -> Cursor:
        """Return a place in the last text; None = its end (PlanError if it is not there)."""
        last = len(self.texts) - 1
        text = self.texts[last]
        if place is None:
            return Cursor(last, len(text))
        if isinstance(place, Position):
            return Cursor(last, text.offset(place, encoding))
        return Cursor(last, text.counted(place, encoding))

    def prompt(self, cursor: Cursor, *, fill: bool, continued: bool = False) -> Prompt:
        """Return what a model is asked at a place.

        fill       whether what stands behind it is told, if anything does
        continued  of a chat: whether the answer goes on where the last message ends
        """
        if self.chat:
            pairs = zip(self.roles, self.texts, strict=True)
            messages = tuple(Message(role, (Part(str(text)),)) for role, text in pairs)
            return ChatPrompt(messages, continued=continued)
        text = self.texts[0]
        after = text.slice(cursor.offset, len(text)) if fill else ""
        return TextPrompt((Part(text.slice(0, cursor.offset)),), after or None)

    def _rewritten(self, change: Rewrite, encoding: Encoding) -> tuple[Document, Splice]:
        last = len(self.texts) - 1
        at = last if change.message is None else self._message(change.message, last)
        text = self.texts[at]
        place = change.place
        if place is None:
            start, stop = 0, len(text)
        elif isinstance(place, Range):
            start, stop = (text.offset(each, encoding) for each in (place.start, place.end))
        else:
            ends = place.offset, place.offset + place.length
            start, stop = (text.counted(units, encoding) for units in ends)
        new = text.replace(start, stop, change.text)
        texts = (*self.texts[:at], new, *self.texts[at + 1 :])
        return replace(self, texts=texts), Splice(at, start, stop - start, change.text)

    @staticmethod
    def _message(index: int, most: int) -> int:
        if not 0 <= index <= most:
            raise PlanError(
                f"message must be the number of one that is there, 0 to {most}, got {index}; "
                "count from 0",
                param="changes",
            )
        return index
