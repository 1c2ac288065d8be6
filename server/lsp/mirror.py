"""A document as the server keeps it: sent whole at the first question, then told every change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from server.lsp.backend import Backend, Piece, Refused
from server.sessions.text import Text

SESSIONS = "/v1/edit-sessions"
NO_SESSIONS = {404, 405, 501}  # how a server answers that does not know the path
GONE = {404, 409, 410}  # the server's copy is lost, or another one than ours
ENCODING = "utf-32"  # offsets count characters, as Python does


class Mirror:
    """One document's edit session. Changes go out in order, those that wait in one message."""

    def __init__(self, backend: Backend, text: Callable[[], Text]) -> None:
        self._backend = backend
        self._text = text
        self._id: str | None = None
        self._version = 0
        self._waiting: list[dict[str, Any]] = []
        self._sending: asyncio.Task[None] | None = None

    def changed(self, offset: int, length: int, text: str) -> None:
        """Tell the server of a change, in the background; it works while the user types on."""
        if self._id is not None or self._sending is not None:
            self._waiting.append({"offset": offset, "length": length, "text": text})
            self._send()

    async def pieces(self, offset: int, body: dict[str, Any]) -> AsyncGenerator[Piece]:
        """Yield the completion at a place of the document as it is now.

        raises  Refused
        """
        for last in (False, True):
            path = f"{SESSIONS}/{await self._settled()}"
            place = {"offset": offset, "encoding": ENCODING, "version": self._version}
            asked = {**body, **place}
            try:
                async with aclosing(self._backend.pieces(f"{path}/complete", asked)) as coming:
                    async for piece in coming:
                        yield piece
            except Refused as refused:
                if refused.status not in GONE or last:
                    raise
                self._id = None  # the server dropped it meanwhile: send the text again
            else:
                return

    async def close(self) -> None:
        """Let the server forget the document."""
        if self._sending is not None:
            self._sending.cancel()
        if self._id is not None:
            path, self._id = f"{SESSIONS}/{self._id}", None
            await self._backend.call("DELETE", path)

    async def _settled(self) -> str:
        """Return the session's id once the server has the document as it is.

        raises  Refused
        """
        while self._sending is not None or self._waiting or self._id is None:
            self._send()
            assert self._sending is not None
            # a question that is cancelled must not lose the changes on their way
            await asyncio.shield(self._sending)
        return self._id

    def _send(self) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._sent())
            self._sending.add_done_callback(_heard)

    async def _sent(self) -> None:
        """Send what waits; without a session, the whole text."""
        try:
            while self._waiting or self._id is None:
                if self._id is None:
                    await self._create()
                else:
                    await self._patch(self._id)
        except Refused:
            self._id, self._waiting = None, []
            raise
        finally:
            self._sending = None

    async def _create(self) -> None:
        model = await self._backend.model()
        self._waiting = []  # the text has them
        body = {"text": str(self._text())} | ({} if model is None else {"model": model})
        try:
            made = await self._backend.call("POST", SESSIONS, body)
        except Refused as refused:
            if refused.status in NO_SESSIONS and refused.code != "model_not_found":
                self._backend.keeps_documents = False
            raise
        self._id, self._version = made.get("id"), made.get("version", 0)
        if self._id is None:
            raise Refused("edit session must have an id, got none; see the server")

    async def _patch(self, session: str) -> None:
        changes, self._waiting = self._waiting, []
        body = {
            "base_version": self._version,
            "version": self._version + 1,
            "changes": changes,
            "encoding": ENCODING,
            "hash": self._text().sha256,  # refused if the server's text would be another
        }
        try:
            await self._backend.call("PATCH", f"{SESSIONS}/{session}", body)
        except Refused as refused:
            if refused.status not in GONE:
                raise
            self._id = None
        else:
            self._version += 1


def _heard(task: asyncio.Task[None]) -> None:
    """Take a failure that nobody waited for; the next question meets its cause again."""
    if not task.cancelled():
        task.exception()
