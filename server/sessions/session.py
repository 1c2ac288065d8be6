"""An edit session: a document, what an engine has read of it, and the answer that is written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from server.chunk import Chunk
from server.concurrency import closed
from server.engines.base import Fidelity
from server.errors import PlanError
from server.prompt import Prompt, TextPrompt
from server.sessions.asking import Ask, Maker
from server.sessions.document import Cursor, Splice
from server.sessions.kept import Kept, Read
from server.sessions.running import Cancelled, Running, failed
from server.sessions.versions import Applied, Revision, Versions

log = logging.getLogger("evenhand")

T = TypeVar("T")

HOLD_SECONDS = 0.5  # what an edit that comes too early waits for those before it
MOST_HELD = 64  # such edits of one session
PAUSE_SECONDS = 0.05  # of typing, before edits are brought to the engine
OVERHEAD = 16 * 2**10  # bytes of a session besides its text and its cache


class EditSession:
    """One document that is edited and asked about.

    changed  called when its size may have changed
    """

    def __init__(
        self,
        name: str,
        maker: Maker,
        versions: Versions,
        kept: Kept,
        changed: Callable[[EditSession], None],
    ) -> None:
        self.id = name
        self.maker = maker
        self.versions = versions
        self.kept = kept
        self._changed = changed
        self._fills = True  # until the model says that it cannot
        self._asked = True, False  # fill and continued, as of the last answer
        self._cursor: Cursor | None = None
        self._running: Running | None = None
        self._moved = asyncio.Event()
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None  # until the next thing is done unasked
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Return what it takes of the budget."""
        return OVERHEAD + self.versions.document.nbytes + self.kept.nbytes

    @property
    def busy(self) -> bool:
        """Return whether an answer is written."""
        return self._running is not None and not self._running.done

    @property
    def read(self) -> Read | None:
        """Return what the engine has read of it, if anything."""
        return self.kept.read

    async def put(self, revision: Revision) -> Applied:
        """Apply a revision; one that comes too early is held for those before it.

        raises  as `Versions.put`
        """
        await self.reached(revision.base)
        return self.apply(revision)

    async def reached(self, version: int | None) -> None:
        """Wait a moment for a version that has not come yet."""
        if version is None or version <= self.versions.version or self._held >= MOST_HELD:
            return
        self._held += 1
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                while version > self.versions.version:
                    await self._moved.wait()
        except TimeoutError:
            pass
        finally:
            self._held -= 1

    def apply(self, revision: Revision) -> Applied:
        """Apply a revision now (as `Versions.put`); the engine sees it after a pause of typing."""
        applied = self.versions.put(revision)
        if applied.again:
            return applied
        self._moved.set()
        self._moved = asyncio.Event()
        self._cursor = self._next(applied.splices)
        if self._running is not None:
            self._running.follow(applied.splices)
        self._changed(self)
        self._wait()
        return applied

    def ask(self, ask: Ask) -> Running:
        """Begin an answer, in the place of one that is written.

        raises  Cancelled  if the document is another by now
        """
        if ask.version != self.versions.version:
            raise Cancelled("an edit before it was begun")
        self.cancel("another question")
        running = Running(ask.cursor, ask.deadline)
        self._running = running
        self._cursor, self._asked = ask.cursor, (ask.fill, ask.continued)
        running.task = self._start(self._write(ask, running))
        return running

    def cancel(self, why: str) -> None:
        """Take back the answer that is written, if one is."""
        if self._running is not None:
            self._running.cancel(why)

    async def settle(self) -> None:
        """Wait until the engine has read the document as it is."""
        await self._bring()

    async def fidelity(self, cursor: Cursor, *, fill: bool) -> Fidelity:
        """Compare what was edited with what is read anew, at a place (PlanError, EngineError)."""
        async with self.kept.lock:
            prompt = self.versions.document.prompt(cursor, fill=fill and self._fills)
            return await self._filling(prompt, self.kept.fidelity)

    async def forget(self) -> None:
        """Free what the engine keeps of it; the text stays, and is read again when asked about."""
        async with self.kept.lock:
            await self.kept.forget()
        self._changed(self)

    async def close(self, why: str) -> None:
        """End everything that is done for it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.cancel(why)
        for task in (tasks := tuple(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.kept.forget()

    async def _write(self, ask: Ask, running: Running) -> None:
        """Write an answer, alone with the sequence."""
        try:
            async with self.kept.lock:
                stream = await self._stream(ask)
                try:
                    running.begin(self.kept.length)
                    async for chunk in stream:
                        running.say(chunk)
                        if running.done:
                            break
                    running.end()
                finally:
                    await closed(stream)
        except Exception as error:
            log.debug("answer in session failed", exc_info=True)
            running.fail(failed(error))
        finally:
            self._changed(self)

    async def _stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """Begin an answer."""
        fill = ask.fill and self._fills
        prompt = ask.document.prompt(ask.cursor, fill=fill, continued=ask.continued)

        async def begun(prompt: Prompt) -> AsyncIterator[Chunk]:
            if self.kept.refusal:
                return await ask.whole(prompt)
            await self.kept.edit(prompt, ask.version, exact=ask.exact)
            return await self.kept.generate(ask.sampling)

        return await self._filling(prompt, begun)

    async def _filling(self, prompt: Prompt, use: Callable[[Prompt], Awaitable[T]]) -> T:
        """Use a prompt; without the text behind the cursor, if the model cannot fill in."""
        try:
            return await use(prompt)
        except PlanError as error:
            told = isinstance(prompt, TextPrompt) and prompt.suffix is not None
            if error.param != "suffix" or not told:
                raise
            self._fills = False
        assert isinstance(prompt, TextPrompt)
        return await use(TextPrompt(prompt.parts))

    def _next(self, splices: Sequence[Splice] | None) -> Cursor | None:
        """Guess from an edit where the next question is asked; None = at the end.

        Who types asks there. But where no text behind the cursor is told, what has been read up to
        the last question is not cut off for that: it may be asked there again.
        """
        if not splices:
            return None
        last = splices[-1]
        here = Cursor(last.message, last.start + len(last.text))
        if self._cursor is None or self._cursor.message != here.message:
            return here
        there = self._cursor.moved(splices)
        at_end = there.offset >= len(self.versions.document.texts[there.message])
        fills = self._asked[0] and self._fills and not at_end
        return here if fills or there.offset < here.offset else there

    def _wait(self) -> None:
        """Bring the document to the engine once nothing has been edited for a moment."""
        self._after(PAUSE_SECONDS, self._bring)

    def _after(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something later, unless another thing is to be done later by then."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.kept.refusal and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._unasked, seconds, work)

    def _unasked(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._background is not None and not self._background.done():
            self._after(seconds, work)
            return
        self._background = self._start(work())

    async def _bring(self) -> None:
        """Let the engine read what was edited; what is wrong is told to the next who asks."""
        if self.kept.refusal:
            return
        async with self.kept.lock:
            version, document = self.versions.version, self.versions.document
            if self.read is not None and self.read.version == version:
                return
            fill, continued = self._asked
            last = len(document.texts) - 1
            cursor = self._cursor or Cursor(last, len(document.texts[last]))
            try:
                prompt = document.prompt(cursor, fill=fill and self._fills, continued=continued)
                await self._filling(prompt, partial(self.kept.edit, version=version))
            except Exception:
                log.debug("edit could not be read ahead", exc_info=True)
        self._changed(self)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
