"""Sequences that stay for editors that know nothing of them: one for each client and file.

An editor sends its whole window with every key. Here the sequence of the request before becomes the
new prompt (`Session.edit`), so that what was read of it need not be read again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import asdict, dataclass, replace
from typing import Any

from server.chunk import Chunk
from server.concurrency import closed
from server.engines.base import Edit, Engine, Session
from server.errors import EngineError, PlanError
from server.job import Work
from server.prompt import FillPrompt, TextPrompt
from server.stages.pie import Pie

log = logging.getLogger("evenhand")

EDITED = Pie().reading
ALIKE = 0.5  # share of its text that a file must have in common with what a sequence has read
COMPARED = 1 << 16  # characters at each end of a text that are compared


@dataclass(frozen=True, slots=True)
class Document:
    """What tells one file from another: its text around the cursor, and its name if it has one."""

    text: str
    name: str = ""

    def likeness(self, other: Document) -> float:
        """Return the share of the text that both have in common at its ends, 0 to 1."""
        if self.name and other.name:
            return float(self.name == other.name)
        longest = min(max(len(self.text), len(other.text)), 2 * COMPARED)
        if not longest:
            return 1.0
        heads = self.text[:COMPARED], other.text[:COMPARED]
        tails = self.text[-COMPARED:][::-1], other.text[-COMPARED:][::-1]
        return min((_common(*heads) + _common(*tails)) / longest, 1.0)


@dataclass(slots=True, eq=False)
class _Kept:
    """A sequence that stays, for which client and file, and when it was last of use."""

    client: Hashable
    document: Document
    session: Session
    used: float
    busy: bool = True


class Implicit:
    """The sequences of all clients.

    most    sequences at once; 0 = none, every request is answered by itself
    budget  bytes of their caches; the least recently used go first
    idle    seconds without use after which a sequence is dropped
    """

    def __init__(
        self,
        engine: Engine,
        *,
        most: int,
        budget: int,
        idle: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._budget = budget
        self._idle = idle
        self._clock = clock
        self._most = most if most and _edits(engine) else 0
        self._kept: list[_Kept] = []
        self._sweeping: asyncio.Task[None] | None = None
        self._opening = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all caches."""
        return sum(kept.session.nbytes for kept in self._kept)

    def of(self, client: Hashable) -> Answerer:
        """Return what answers the work of one client.

        client  what tells it from others: nobody meets the sequences of somebody else
        """
        return Answerer(self, self._engine, client)

    async def stream(self, work: Work, client: Hashable) -> AsyncIterator[Chunk] | None:
        """Return the answer of a sequence that stays, or None where the work is for none.

        A sequence that is still at work makes nobody wait.

        raises  PlanError  if the work cannot be done
        """
        document = _document(work)
        if document is None or not self._most or self._closed:
            return None
        kept = await self._take(client, document)
        if kept is None:
            return None
        try:
            edit = await kept.session.edit(work.prompts[0])
            chunks = await kept.session.generate(work.sampling)
        except PlanError:  # it is as before
            self.release(kept)
            raise
        except EngineError as error:
            log.warning("a sequence that stays has failed and is dropped: %s", error.message)
            await self._drop(kept)
            return None
        except BaseException:  # what was interrupted is in no known state
            await self._drop(kept)
            raise
        kept.document = document
        return _Answer(chunks, edit, lambda: self._finish(kept))

    async def close(self) -> None:
        """Drop all; what is asked now is answered without."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for kept in [*self._kept]:
            await self._drop(kept)

    def release(self, kept: _Kept) -> None:
        """Let others use a sequence."""
        kept.busy, kept.used = False, self._clock()

    async def _take(self, client: Hashable, document: Document) -> _Kept | None:
        """Return the sequence of this file, another that may become it, or None."""
        own = [kept for kept in self._kept if kept.client == client]
        alike = {id(kept): kept.document.likeness(document) for kept in own}
        found = max(own, key=lambda kept: alike[id(kept)], default=None)
        if found is not None and alike[id(found)] >= ALIKE:
            if found.busy:
                return None
        else:  # one that has read other files alone, to be warm
            warm = (kept for kept in own if not kept.document.text and not kept.busy)
            found = next(warm, None) if document.text else None
        if found is None:
            return await self._open(client, document)
        found.busy = True
        return found

    async def _open(self, client: Hashable, document: Document) -> _Kept | None:
        if len(self._kept) + self._opening >= self._most and not await self._drop_oldest():
            return None
        self._opening += 1
        try:
            session = await self._engine.open(EDITED)
        except (PlanError, EngineError) as error:
            log.warning("a sequence could not stay: %s", error.message)
            return None
        finally:
            self._opening -= 1
        kept = _Kept(client, document, session, self._clock())
        self._kept.append(kept)
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())
        return kept

    async def _finish(self, kept: _Kept) -> None:
        self.release(kept)
        while self.nbytes > self._budget and await self._drop_oldest():
            pass

    async def _drop_oldest(self) -> bool:
        """Drop the least recently used sequence; return False if all are at work."""
        free = [kept for kept in self._kept if not kept.busy]
        if not free:
            return False
        await self._drop(min(free, key=lambda kept: kept.used))
        return True

    async def _drop(self, kept: _Kept) -> None:
        if kept in self._kept:
            self._kept.remove(kept)
            await kept.session.close()

    async def _sweep(self) -> None:
        """Drop what nobody has used for long, as long as there is anything."""
        while self._kept:
            oldest = min(kept.used for kept in self._kept)
            await asyncio.sleep(max(oldest + self._idle - self._clock(), self._idle / 16))
            late = self._clock() - self._idle
            for kept in [each for each in self._kept if not each.busy and each.used <= late]:
                await self._drop(kept)
        self._sweeping = None


@dataclass(frozen=True, slots=True)
class Answerer:
    """Answers the work of one client, as an engine does."""

    sequences: Implicit
    engine: Engine
    client: Hashable

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        """Start work, where it can be from what was read for the same file before."""
        chunks = await self.sequences.stream(work, self.client)
        return await self.engine.generate(work) if chunks is None else chunks


class _Answer(AsyncIterator[Chunk]):
    """The chunks of an answer, the last with a note of the edit; then the sequence is free."""

    def __init__(self, chunks: AsyncIterator[Chunk], edit: Edit, finish: Callable[[], Any]) -> None:
        self._chunks = chunks
        self._edit = edit
        self._finish: Callable[[], Any] | None = finish

    async def __anext__(self) -> Chunk:
        if self._finish is None:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except BaseException:
            await self.aclose()
            raise
        if chunk.finish_reason is None:
            return chunk
        return replace(chunk, notes={**chunk.notes, "edit": asdict(self._edit)})

    async def aclose(self) -> None:
        """Stop the work at its next step, and let the sequence go."""
        finish, self._finish = self._finish, None
        if finish is None:
            return
        try:
            await closed(self._chunks)
        finally:
            await finish()


def _edits(engine: Engine) -> bool:
    """Return whether the engine keeps sequences that can be edited."""
    try:
        return engine.refusal(EDITED) is None
    except PlanError:
        return False


def _document(work: Work) -> Document | None:
    """Return what is to be filled in, or None for work that no sequence that stays can do."""
    sampling = work.sampling
    plain = work.reading is None and not work.deterministic
    if not plain or len(work.prompts) != 1 or sampling.n != 1 or sampling.echo:
        return None
    [prompt] = work.prompts
    if isinstance(prompt, FillPrompt):
        return Document(prompt.prefix + prompt.begun + prompt.suffix, prompt.name)
    if isinstance(prompt, TextPrompt) and prompt.suffix is not None:
        return Document("".join(part.text for part in prompt.parts) + prompt.suffix)
    return None


def _common(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
