"""The chunks of several calls at once, as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from server.chunk import Chunk

AHEAD = 64  # chunks read before the caller takes them; then the other server has to wait

Item = Chunk | Exception | None  # None = one call is done


class Stream(AsyncIterator[Chunk]):
    """Runs calls side by side; an error of one ends them all.

    Closing it, or dropping it, closes their connections, which stops the other server's work.
    """

    def __init__(self, calls: Sequence[AsyncGenerator[Chunk, None]]) -> None:
        self._items: asyncio.Queue[Item] = asyncio.Queue(AHEAD)
        self._open = len(calls)
        self._held: list[Chunk] = []
        self._tasks = [asyncio.create_task(_pumped(call, self._items)) for call in calls]

    async def begin(self) -> None:
        """Wait for the first sign of an answer; an error before it is raised here."""
        try:
            self._held = [await anext(self)]
        except BaseException:
            await self.aclose()
            raise

    async def __anext__(self) -> Chunk:
        if self._held:
            return self._held.pop()
        while self._open:
            item = await self._items.get()
            if isinstance(item, Chunk):
                return item
            if item is not None:
                await self.aclose()
                raise item
            self._open -= 1
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop all calls, and wait until their connections are closed."""
        self._open, self._held = 0, []
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs
            for task in self._tasks:
                task.cancel()


async def _pumped(call: AsyncGenerator[Chunk, None], items: asyncio.Queue[Item]) -> None:
    """Put a call's chunks into the queue, then how it ended."""
    try:
        async with aclosing(call) as chunks:
            async for chunk in chunks:
                await items.put(chunk)
    except Exception as error:  # told to whoever reads the stream
        await items.put(error)
    else:
        await items.put(None)
