"""A streamed answer: events while they come, comments on silence, the end when the client goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.admission import Admission, Place
from server.protocol import sse

log = logging.getLogger("evenhand")


class EventStream(Response):
    """Send events until they end, the client goes, or the server aborts.

    events      closed in every case
    close       called in every case, even if no event was asked for: it stops the work
    place       given back at the end
    keep_alive  seconds of silence before a comment line; None = no such lines
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        close: Callable[[], Awaitable[None]],
        admission: Admission,
        place: Place,
        keep_alive: float | None,
    ) -> None:
        super().__init__(headers=sse.HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._admission = admission
        self._place = place
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        gone = asyncio.create_task(self.watch(receive))
        stop = asyncio.create_task(self._admission.aborted.wait())
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            async with aclosing(self._pieces(gone, stop)) as pieces:
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
            await self._events.aclose()
            await self._close()

    async def _pieces(
        self, gone: asyncio.Task[None], stop: asyncio.Task[bool]
    ) -> AsyncGenerator[bytes, None]:
        """Yield what to send next."""
        step = asyncio.ensure_future(anext(self._events, None))
        try:
            while True:
                watched = {step, gone, stop}
                await asyncio.wait(
                    watched, timeout=self._keep_alive, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    log.info("client went away; its work is stopped")
                    return
                if step.done():
                    if (piece := step.result()) is None:
                        return
                    yield piece
                    step = asyncio.ensure_future(anext(self._events, None))
                elif stop.done():
                    yield self.farewell()
                    return
                else:
                    yield sse.KEEP_ALIVE
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)

    async def watch(self, receive: Receive) -> None:
        """Return when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass

    def farewell(self) -> bytes:
        """Return what is said last when the server aborts."""
        return sse.event(Admission.stopping().wire()) + sse.DONE
