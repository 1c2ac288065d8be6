"""What the editor has open, whom to ask, and what the log was told; no protocol here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from server.errors import PlanError, told
from server.lsp.asking import Asker, Offer
from server.lsp.backend import Backend, Refused
from server.lsp.documents import Document
from server.lsp.mirror import Mirror
from server.lsp.options import Options
from server.lsp.shape import in_word, shape
from server.sessions.text import Encoding, Position

LEAVE_SECONDS = 1.0  # an editor that closes does not wait for a server

Log = Callable[[str, str], None]  # kind (warning, info), sentence
Range = tuple[Position, Position]


class Desk:
    """Answers for every open document; a failure is one sentence in the log and no offer.

    encoding  what a column of the editor counts
    """

    def __init__(self, options: Options, log: Log) -> None:
        self.options = options
        self.encoding: Encoding = "utf-16"
        self._log = log
        self._documents: dict[str, Document] = {}
        self._asker = Asker(Backend(options))
        self._trouble: str | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def configured(self, options: Options) -> None:
        """Take new options; another server or model gets the documents anew."""
        if options == self.options:
            return
        left = self._asker.backend
        self.options, self._asker, self._trouble = options, Asker(Backend(options)), None
        mirrors = [document.mirror for document in self._documents.values()]
        for document in self._documents.values():
            document.stop()
            document.served_by(self._asker.backend)
        self._later(_parted(mirrors, left))

    def opened(self, uri: str, text: str) -> None:
        """Take a document that the editor shows."""
        self.closed(uri)
        self._documents[uri] = Document.of(text, self._asker.backend)

    def edited(self, uri: str, changes: Iterable[tuple[Range | None, str]]) -> None:
        """Change a document; what was asked before is outdated.

        changes  each to the result of the one before; without a range, the whole text
        """
        document = self._documents.get(uri)
        if document is None:
            return
        document.stop()
        try:
            for where, text in changes:
                start, stop = self._span(document, where) if where else (0, len(document.text))
                document.replace(start, stop, text)
        except PlanError as error:
            self.closed(uri)  # better nothing than offers for another text
            self._log("warning", f"{uri} is not followed any longer: {error.message}; reopen it")

    def closed(self, uri: str) -> None:
        """Forget a document, on the server too."""
        document = self._documents.pop(uri, None)
        if document is not None:
            document.stop()
            self._later(_parted([document.mirror]))

    async def asked(self, uri: str, where: Range, chosen: str = "", *, invoked: bool) -> str:
        """Return what is offered in the place of a range, or "".

        where    the cursor; where a list of the editor has an entry selected, what that replaces
        chosen   that entry: the offer begins with it
        invoked  by a gesture of the user, not by typing
        """
        document = self._documents.get(uri)
        if document is None or not self.options.enabled:
            return ""
        try:
            start, stop = self._span(document, where)
        except PlanError as error:
            self._failed(error.message)
            return ""
        place = document.place(start, stop, chosen)
        fits = shape(place.before, place.after, multiline=self.options.multiline, invoked=invoked)
        if fits is None:
            return ""
        left = document.offer.rest(place) if document.offer else None
        if left is None:
            # the server's copy has no selected entry
            mirror = document.mirror if start == stop and not chosen else None
            left = await self._answer(document, self._asker.ask(place, fits, mirror))
            document.offer = Offer(place, left)
        return chosen + left if left else ""

    def word(self, uri: str, cursor: Position) -> tuple[str, Position]:
        """Return the beginning of a word that stands before a cursor, and where it begins."""
        document = self._documents.get(uri)
        if document is None:
            return "", cursor
        stop, _ = self._span(document, (cursor, cursor))
        start = stop
        while start and in_word(document.text.slice(start - 1, start)):
            start -= 1
        return document.text.slice(start, stop), document.text.position(start, self.encoding)

    async def _answer(self, document: Document, asking: Coroutine[Any, Any, str]) -> str:
        """Return the answer to a question, or "" if it is outdated or failed."""
        document.stop()  # one cursor, one question
        document.asking = task = asyncio.create_task(asking)
        try:
            answer = await task
        except Refused as refused:
            self._failed(refused.message)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise  # by the editor; else the text has changed, or it was asked again
        except Exception as error:  # whatever it is, the editor goes on
            self._failed(f"{type(error).__name__}: {told(error)}")
        else:
            self._well()
            return answer
        finally:
            if document.asking is task:
                document.asking = None
        return ""

    async def close(self) -> None:
        """Leave the server without a trace, if it answers in time."""
        documents = [*self._documents.values()]
        self._documents.clear()
        for document in documents:
            document.stop()
        await _parted([document.mirror for document in documents], self._asker.backend)

    def _span(self, document: Document, where: Range) -> tuple[int, int]:
        """Return a range in characters from the start of the text.

        raises  PlanError  a place within a character
        """
        start, stop = (document.text.offset(each, self.encoding) for each in where)
        return start, stop

    def _later(self, leaving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(leaving)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _failed(self, sentence: str) -> None:
        """Log a trouble once, not at every key."""
        if sentence != self._trouble:
            self._trouble = sentence
            self._log("warning", f"{sentence}; nothing is offered until that is over")

    def _well(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._log("info", f"{self.options.base} answers again")


async def _parted(mirrors: list[Mirror], backend: Backend | None = None) -> None:
    """Let a server forget documents, and then it; one that does not answer forgets by itself."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            await asyncio.gather(*(each.close() for each in mirrors), return_exceptions=True)
    if backend is not None:
        await backend.close()
