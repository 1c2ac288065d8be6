"""uvicorn, stopped in two steps: let running requests finish, then abort them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from server.admission import Admission

ABORT_SECONDS = 2.0  # what aborted requests are given to say so


class Drained(uvicorn.Server):
    """A server that goes on answering while it drains, so that /ready can say 503.

    admission  told to drain at the first signal, to abort `seconds` later; a second signal skips
               the wait
    listening  called with the address once it listens
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        admission: Admission,
        seconds: float,
        listening: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._admission = admission
        self._seconds = seconds
        self._listening = listening
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self._listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal ends the wait."""
        if self._loop is None or self._admission.draining:
            self._admission.abort()
            self.should_exit = True
            return
        self._admission.drain()
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._draining = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        """Wait for the running requests, abort what is left, then let uvicorn exit."""
        if not await self._admission.idle(self._seconds):
            self._admission.abort()
            await self._admission.idle(ABORT_SECONDS)
        self.should_exit = True
