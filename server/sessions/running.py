"""One answer while it is written: typed along with, cut short, or taken back by an edit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from server.chunk import Chunk, Usage
from server.errors import EngineError, EvenhandError, PlanError
from server.sessions.document import Cursor, Splice

AT_DEADLINE = "deadline"  # `stop_reason` of an answer whose time is over


class Cancelled(PlanError):
    """An answer that was taken back (409); what has been said of it holds no longer."""

    status = 409

    def __init__(self, why: str) -> None:
        super().__init__(
            f"text must stay as it is while it is completed, got {why}; ask again",
            code="completion_cancelled",
        )


class Running(AsyncIterator[Chunk]):
    """An answer at a cursor, from the task that makes it to the one who reads it, to its end.

    deadline  of the loop's clock, when it ends with what there is; None = it has time
    """

    def __init__(self, cursor: Cursor, deadline: float | None = None) -> None:
        self.cursor = cursor
        self.task: asyncio.Task[None] | None = None
        self.done = False
        self.prompt_tokens = 0
        self._deadline = deadline
        self._said = ""
        self._typed = ""
        self._count = 0
        self._items: asyncio.Queue[Chunk | EvenhandError] = asyncio.Queue()
        self._begun = asyncio.Event()
        self._failed: EvenhandError | None = None
        self._read = False

    def begin(self, prompt_tokens: int) -> None:
        """Say that it can be written: what was wrong with the request is known by now."""
        self.prompt_tokens = prompt_tokens
        self._begun.set()

    def say(self, chunk: Chunk) -> None:
        """Hand on a piece; an answer that is not what was typed meanwhile is taken back."""
        if self.done:
            return
        self._said += chunk.text
        self._count += len(chunk.tokens)
        if not self._predicted():
            self.cancel("other text typed at the cursor than it says")
            return
        self.done = chunk.finish_reason is not None
        self._items.put_nowait(chunk)

    def end(self) -> None:
        """Say that no more comes."""
        self.fail(EngineError("engine must finish its answer, got less; this is a fault of it"))

    def fail(self, error: EvenhandError) -> None:
        """End with an error."""
        if not self.done:
            self.done, self._failed = True, error
            self._items.put_nowait(error)
        self._begun.set()

    def cancel(self, why: str) -> None:
        """Take it back, and stop its work; one that has finished stays."""
        self.fail(Cancelled(why))
        self.stop()

    def stop(self) -> None:
        """Stop its work."""
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    def follow(self, splices: Sequence[Splice] | None) -> None:
        """See an edit: typing what it says leaves it alone, any other takes it back.

        splices  where; None = it was more than changes of texts
        """
        if self.done:
            return
        for splice in splices or ():
            here = self.cursor.offset + len(self._typed)
            if (splice.message, splice.start, splice.removed) != (self.cursor.message, here, 0):
                self.cancel("an edit elsewhere than at its cursor")
                return
            self._typed += splice.text
        if splices is None or not self._predicted():
            self.cancel("an edit that it does not say")

    async def begun(self) -> None:
        """Wait until it can be written, or its time is over (the error, if it cannot)."""
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._begun.wait()
        except TimeoutError:
            return
        if self._failed is not None:
            raise self._failed

    async def __anext__(self) -> Chunk:
        if self._read:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout_at(self._deadline):
                item = await self._items.get()
        except TimeoutError:
            item = self._ended()
            await self.aclose()
        if isinstance(item, EvenhandError):
            self._read = True
            raise item
        self._read = item.finish_reason is not None
        return item

    async def aclose(self) -> None:
        """Stop its work: nobody reads on."""
        self._read = True
        if not self.done:
            self.done = True
            self.stop()

    def _predicted(self) -> bool:
        """Return whether what was typed and what is said begin alike."""
        most = min(len(self._said), len(self._typed))
        return self._said[:most] == self._typed[:most]

    def _ended(self) -> Chunk:
        usage = Usage(self.prompt_tokens, self._count)
        return Chunk(0, usage=usage, finish_reason="length", stop_reason=AT_DEADLINE)


def failed(error: Exception) -> EvenhandError:
    """Return what a caller is told of a failure; one that we did not expect is a fault of ours."""
    if isinstance(error, EvenhandError):
        return error
    return EngineError("answer must be written, got an unexpected fault; ask again", retry_after=1)
