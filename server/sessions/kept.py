"""What an engine has read of a document: a sequence that stays, edited as the document is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from server.chunk import Chunk
from server.engines.base import Edit, Engine, Fidelity, Session
from server.errors import EngineError, PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Read:
    """What was read: of which version, and what the last edit cost, stale as it is by now."""

    version: int
    edit: Edit


class Kept:
    """A sequence of an engine; who uses it holds `lock`.

    refusal  why there is none: the whole text is then read for every answer; empty = there is one
    """

    def __init__(self, engine: Engine, reading: ReadingSpec | None, refusal: str) -> None:
        self.lock = asyncio.Lock()
        self.refusal = refusal
        self.reading = reading
        self._read: Read | None = None
        self._engine = engine
        self._session: Session | None = None

    @classmethod
    async def of(cls, engine: Engine, reading: ReadingSpec) -> Kept:
        """Return a sequence that is read so, or, where the engine keeps none, why."""
        try:
            made = cls(engine, reading, engine.refusal(reading) or "")
            if not made.refusal:
                made._session = await engine.open(reading)
        except PlanError as error:
            return cls(engine, reading, error.message)
        return made

    @property
    def read(self) -> Read | None:
        """Return what has been read, as stale as it is by now: idle moments heal it."""
        if self._read is None or self._session is None:
            return None
        edit = replace(self._read.edit, stale_fraction=self._session.stale_fraction)
        return replace(self._read, edit=edit)

    @property
    def length(self) -> int:
        """Return its tokens."""
        return 0 if self._session is None else self._session.length

    @property
    def nbytes(self) -> int:
        """Return the bytes of its cache."""
        return 0 if self._session is None else self._session.nbytes

    async def edit(self, prompt: Prompt, version: int, *, exact: bool = False) -> Edit:
        """Make it a document's prompt (as `Session.edit`)."""
        new = self._session is None
        try:
            edit = await (await self._opened()).edit(prompt, exact=exact)
        except EngineError:
            await self.forget()
            if new:
                raise
            # it had failed while it answered: another may do
            edit = await (await self._opened()).edit(prompt, exact=exact)
        self._read = Read(version, edit)
        return edit

    async def generate(self, sampling: Sampling) -> AsyncIterator[Chunk]:
        """Answer after it (as `Session.generate`)."""
        return await (await self._opened()).generate(sampling)

    async def fidelity(self, prompt: Prompt) -> Fidelity:
        """Compare it with a new reading (as `Session.fidelity`; PlanError where there is none)."""
        if self.refusal:
            raise PlanError(
                "session must keep a cache to be compared with a new reading, got one that does "
                f"not: {self.refusal}; use a model that can be read so"
            )
        return await (await self._opened()).fidelity(prompt)

    async def forget(self) -> None:
        """Free it; it is opened again when it is needed."""
        session, self._session, self._read = self._session, None, None
        if session is not None:
            await session.close()

    async def _opened(self) -> Session:
        if self._session is None:
            self._session = await self._engine.open(self.reading)
        return self._session
