"""The bridge between the worker's thread and the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from server.chunk import Chunk
from server.errors import EngineError

Item = Chunk | EngineError | None


class Channel:
    """What the worker holds of a caller: a way to send, and whether anyone still listens.

    cancelled  set by the caller's side, read by the worker before each step
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = False
        self.items: asyncio.Queue[Item] = asyncio.Queue()
        self._loop = loop

    def send(self, item: Chunk | EngineError) -> None:
        """Hand an item to the loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody listens
            self.cancelled = True


class Stream(AsyncIterator[Chunk]):
    """The chunks of a request, until each of its choices has finished.

    choices  how many will finish

    Closing it, cancelling a wait for its next chunk, or dropping it stops the work.
    """

    def __init__(self, channel: Channel, choices: int) -> None:
        self._channel = channel
        self._open = choices

    @property
    def ended(self) -> bool:
        """Return whether no more will come."""
        return self._open == 0

    async def __anext__(self) -> Chunk:
        if self._open == 0:
            raise StopAsyncIteration
        try:
            item = await self._channel.items.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, EngineError):
            self._open = 0
            raise item
        if item.finish_reason is not None:
            self._open -= 1
        return item

    async def aclose(self) -> None:
        """Stop the work at its next step; a caller waiting for a chunk gets the end."""
        self._open = 0
        self._channel.cancelled = True
        with contextlib.suppress(asyncio.QueueFull):
            self._channel.items.put_nowait(None)

    def __del__(self) -> None:
        self._channel.cancelled = True
