"""A reply in pieces: sent while they come, ended when the client goes or the server stops."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import ClassVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.admission import Admission, Place
from server.protocol import sse

log = logging.getLogger("evenhand")


class StreamedReply(Response):
    """Send pieces until they end, the client goes, or the server aborts.

    pieces   closed in every case
    close    called in every case, even if no piece was asked for: it stops the work
    place    given back at the end
    silence  seconds of it before a `filler`; None = it is never broken
    """

    filler: ClassVar[bytes] = b""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        *,
        close: Callable[[], Awaitable[None]],
        admission: Admission,
        place: Place,
        silence: float | None = None,
    ) -> None:
        super().__init__(headers=sse.HEADERS)
        del self.headers["content-length"]
        self._pieces = pieces
        self._close = close
        self._admission = admission
        self._place = place
        self._silence = silence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        gone = asyncio.create_task(self.watch(receive))
        stop = asyncio.create_task(self._admission.aborted.wait())
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            async with aclosing(self._sent(gone, stop)) as pieces:
                await send(head)
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            log.info("client went away while it was written to")
        finally:
            self._place.release()
            for task in (gone, stop):
                task.cancel()
            await asyncio.gather(gone, stop, return_exceptions=True)
            await self._pieces.aclose()
            await self._close()

    async def _sent(
        self, gone: asyncio.Task[None], stop: asyncio.Task[bool]
    ) -> AsyncGenerator[bytes, None]:
        """Yield what to send next."""
        step = asyncio.ensure_future(anext(self._pieces, None))
        try:
            while True:
                watched = {step, gone, stop}
                await asyncio.wait(
                    watched, timeout=self._silence, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    log.info("client went away; its work is stopped")
                    return
                if step.done():
                    if (piece := step.result()) is None:
                        return
                    yield piece
                    step = asyncio.ensure_future(anext(self._pieces, None))
                elif stop.done():
                    yield self.farewell()
                    return
                else:
                    yield self.filler
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)

    async def watch(self, receive: Receive) -> None:
        """Return when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass

    @abstractmethod
    def farewell(self) -> bytes:
        """Return what is said last when the server aborts."""


class EventStream(StreamedReply):
    """Server-sent events, with a comment line on silence."""

    media_type = "text/event-stream"
    filler = sse.KEEP_ALIVE

    def farewell(self) -> bytes:
        """Return what is said last when the server aborts."""
        return sse.event(Admission.stopping().wire()) + sse.DONE
