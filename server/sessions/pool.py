"""Sequences that stay from one request to the next: so many, of so many bytes, for so long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.engines.base import Engine, Session
from server.errors import EngineError, PlanError
from server.job import ReadingSpec

log = logging.getLogger("evenhand")


class About(Protocol):
    """What a request is about, where a sequence that stays can answer it."""

    @property
    def reading(self) -> ReadingSpec:
        """Return how its sequence is read."""
        ...

    @property
    def told(self) -> bool:
        """Return whether the reply's notes tell what became of the sequence."""
        ...

    async def found(self, own: Sequence[Kept]) -> Kept | None:
        """Return the sequence for it, at work or not, or None where it needs a new one.

        own     those of its client that are read so
        raises  PlanError  if what is asked cannot be read at all
        """
        ...


@dataclass(slots=True, eq=False)
class Kept:
    """A sequence that stays: of which client, what it was about last, and when it was of use."""

    client: Hashable
    about: About
    session: Session
    used: float
    busy: bool = True


class Pool:
    """The sequences of all clients.

    most    sequences at once; 0 = none
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
        self._most = most
        self._budget = budget
        self._idle = idle
        self._clock = clock
        self._kept: list[Kept] = []
        self._sweeping: asyncio.Task[None] | None = None
        self._opening = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all caches."""
        return sum(kept.session.nbytes for kept in self._kept)

    async def take(self, client: Hashable, about: About) -> Kept | None:
        """Return a sequence for what is asked, busy from now on, or None where none can be had.

        raises  PlanError  as `About.found`
        """
        if not self._most or self._closed or not _reads(self._engine, about.reading):
            return None
        own = [
            kept
            for kept in self._kept
            if kept.client == client and kept.about.reading == about.reading
        ]
        found = await about.found(own)
        if found is None:
            return await self._open(client, about)
        if found.busy or found not in self._kept:  # it was taken or dropped meanwhile
            return None
        found.busy = True
        return found

    def release(self, kept: Kept) -> None:
        """Let others use a sequence."""
        kept.busy, kept.used = False, self._clock()

    async def finish(self, kept: Kept) -> None:
        """Let others use a sequence that has answered; what is over the budget goes."""
        self.release(kept)
        if kept.session.nbytes > self._budget:
            log.warning("a sequence of %d bytes is too large to stay", kept.session.nbytes)
        while self.nbytes > self._budget and await self._drop_oldest():
            pass

    async def drop(self, kept: Kept) -> None:
        """Forget a sequence."""
        if kept in self._kept:
            self._kept.remove(kept)
            await kept.session.close()

    async def close(self) -> None:
        """Drop all; there will be no more."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for kept in [*self._kept]:
            await self.drop(kept)

    async def _open(self, client: Hashable, about: About) -> Kept | None:
        if len(self._kept) + self._opening >= self._most and not await self._drop_oldest():
            return None
        self._opening += 1
        try:
            session = await self._engine.open(about.reading)
        except (PlanError, EngineError) as error:
            log.warning("a sequence could not stay: %s", error.message)
            return None
        finally:
            self._opening -= 1
        kept = Kept(client, about, session, self._clock())
        self._kept.append(kept)
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())
        return kept

    async def _drop_oldest(self) -> bool:
        """Drop the least recently used sequence; return False if all are at work."""
        free = [kept for kept in self._kept if not kept.busy]
        if not free:
            return False
        await self.drop(min(free, key=lambda kept: kept.used))
        return True

    async def _sweep(self) -> None:
        """Drop what nobody has used for long, as long as there is anything."""
        while self._kept:
            oldest = min(kept.used for kept in self._kept)
            await asyncio.sleep(max(oldest + self._idle - self._clock(), self._idle / 16))
            late = self._clock() - self._idle
            for kept in [each for each in self._kept if not each.busy and each.used <= late]:
                await self.drop(kept)
        self._sweeping = None


def _reads(engine: Engine, reading: ReadingSpec) -> bool:
    """Return whether the engine keeps sequences that are read so."""
    try:
        return engine.refusal(reading) is None
    except PlanError:
        return False
