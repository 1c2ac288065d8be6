"""Sequences that stay for clients that know nothing of them: editors, and chats without end.

An editor sends its whole window with every key, a chat all that was said with every turn. Here the
sequence of the request before becomes the new prompt (`Session.edit`), so that what was read of it
need not be read again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from server.chunk import Chunk
from server.concurrency import closed
from server.engines.base import Engine
from server.errors import EngineError, PlanError
from server.job import Work
from server.sessions.files import File
from server.sessions.pool import About, Kept, Pool
from server.sessions.turns import Turn

log = logging.getLogger("evenhand")


class Implicit:
    """The sequences of all clients, of both kinds in one budget.

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
        self._pool = Pool(engine, most=most, budget=budget, idle=idle, clock=clock)

    def __len__(self) -> int:
        return len(self._pool)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all caches."""
        return self._pool.nbytes

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
        about = subject(work)
        kept = None if about is None else await self._pool.take(client, about)
        if about is None or kept is None:
            return None
        try:
            edit = await kept.session.edit(work.prompts[0])
            chunks = await kept.session.generate(work.sampling)
        except PlanError:  # it is as before
            self._pool.release(kept)
            raise
        except EngineError as error:
            log.warning("a sequence that stays has failed and is dropped: %s", error.message)
            await self._pool.drop(kept)
            return None
        except BaseException:  # what was interrupted is in no known state
            await self._pool.drop(kept)
            raise
        kept.about = about
        return _Answer(chunks, {"edit": asdict(edit)} if about.told else {}, self._pool, kept)

    async def close(self) -> None:
        """Drop all; what is asked now is answered without."""
        await self._pool.close()


def subject(work: Work) -> About | None:
    """Return what work is about, or None for what no sequence that stays can do."""
    sampling = work.sampling
    if work.deterministic or len(work.prompts) != 1 or sampling.n != 1 or sampling.echo:
        return None
    return File.of(work) or Turn.of(work)


@dataclass(frozen=True, slots=True)
class Answerer:
    """Answers the work of one client, as an engine does."""

    sequences: Implicit
    engine: Engine
    client: Hashable

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        """Start work, where it can be from what was read for the same text before."""
        chunks = await self.sequences.stream(work, self.client)
        return await self.engine.generate(work) if chunks is None else chunks


class _Answer(AsyncIterator[Chunk]):
    """The chunks of an answer, the last with more notes; then the sequence is free."""

    def __init__(
        self, chunks: AsyncIterator[Chunk], notes: Mapping[str, Any], pool: Pool, kept: Kept
    ) -> None:
        self._chunks = chunks
        self._notes = notes
        self._pool = pool
        self._kept: Kept | None = kept

    async def __anext__(self) -> Chunk:
        if (kept := self._kept) is None:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except EngineError:
            self._kept = None
            await self._pool.drop(kept)
            raise
        except BaseException:
            await self.aclose()
            raise
        if chunk.finish_reason is None:
            return chunk
        return replace(chunk, notes={**chunk.notes, **self._notes})

    async def aclose(self) -> None:
        """Stop the work at its next step, and let the sequence go."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        try:
            await closed(self._chunks)
        finally:
            await self._pool.finish(kept)
