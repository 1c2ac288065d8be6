"""An open document: its text as the editor has it, and what is under way for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from server.lsp.asking import Offer, Place
from server.lsp.backend import Backend
from server.lsp.mirror import Mirror
from server.sessions.text import Text


@dataclass
class Document:
    """One open document.

    text     as the editor has it
    mirror   what the server keeps of it
    asking   the question under way
    offer    the last answer
    """

    text: Text
    mirror: Mirror = field(init=False)
    asking: asyncio.Task[str] | None = None
    offer: Offer | None = None

    @classmethod
    def of(cls, text: str, backend: Backend) -> Document:
        """Return a document that a server may keep."""
        document = cls(Text.of(sound(text)))
        document.served_by(backend)
        return document

    def served_by(self, backend: Backend) -> None:
        """Take a server, which knows nothing of the document yet."""
        self.mirror = Mirror(backend, lambda: self.text)
        self.offer = None

    def replace(self, start: int, stop: int, text: str) -> None:
        """Put a text in the place of the characters [start, stop), here and on the server.

        raises  PlanError  if they are none of its characters
        """
        text = sound(text)
        self.text = self.text.replace(start, stop, text)
        self.mirror.changed(start, stop - start, text)

    def place(self, start: int, stop: int, chosen: str) -> Place:
        """Return what stands before and after a cursor, with `chosen` for [start, stop)."""
        before, after = self.text.slice(0, start), self.text.slice(stop, len(self.text))
        return Place(before + chosen, after)

    def stop(self) -> None:
        """Stop the question under way, if there is one."""
        if self.asking is not None:
            self.asking.cancel()


def sound(text: str) -> str:
    """Return a text without halves of characters; it is as long in UTF-16 as before."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
