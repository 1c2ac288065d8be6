"""All edit sessions: found by id and owner, kept within a budget, the least used out first."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from server.errors import PlanError
from server.sessions.document import Document
from server.sessions.kept import Kept
from server.sessions.session import EditSession, Maker
from server.sessions.versions import Versions

REMEMBERED = 10_000  # sessions of which it is known that they were evicted


class Sessions:
    """The sessions of a server.

    budget  bytes of all their texts and caches; first caches go, then sessions, the least recently
            used first
    most    bytes of one text
    """

    def __init__(self, budget: int, most: int) -> None:
        self._budget = budget
        self._most = most
        self._sessions: OrderedDict[str, EditSession] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._gone: OrderedDict[str, str] = OrderedDict()  # evicted ones and whose they were
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def nbytes(self) -> int:
        """Return what all sessions take."""
        return self._total

    def make(self, maker: Maker, document: Document, kept: Kept) -> EditSession:
        """Return a new session (PlanError 413 if it alone is too large)."""
        name = f"es-{secrets.token_urlsafe(24)}"
        made = EditSession(name, maker, Versions(document, self._most), kept, self._weigh)
        if made.nbytes > self._budget:
            raise PlanError(
                f"session must fit into {self._budget} bytes, got {made.nbytes}; send less text",
                status=413,
                code="request_too_large",
            )
        self._sessions[name] = made
        self._weigh(made)
        return made

    def find(self, name: str, owner: str) -> EditSession:
        """Return a session of an owner's; it is then the last that was used.

        raises  PlanError  404 if the owner has none of this name, 410 if it was evicted
        """
        found = self._sessions.get(name)
        if found is not None and found.maker.owner == owner:
            self._sessions.move_to_end(name)
            return found
        if self._gone.get(name) == owner:
            raise PlanError(
                f"session must be held to be used, got {name!r}, which was evicted for newer ones; "
                "make another with the whole text: POST /v1/edit-sessions",
                status=410,
                code="session_evicted",
            )
        raise PlanError(
            f"session must be one that you made, got {name[:200]!r}; make one with the whole text: "
            "POST /v1/edit-sessions",
            status=404,
            code="session_not_found",
        )

    async def drop(self, session: EditSession) -> None:
        """End a session that its owner has done with."""
        self._forget(session)
        await session.close("the end of its session")

    async def close(self) -> None:
        """End all sessions."""
        for session in tuple(self._sessions.values()):
            await self.drop(session)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _weigh(self, session: EditSession) -> None:
        """Count what a session takes by now, and make room for it."""
        if session.id not in self._sessions:
            return
        size = session.nbytes
        self._total += size - self._sizes.get(session.id, 0)
        self._sizes[session.id] = size
        if self._total > self._budget:
            self._make_room(session)

    def _make_room(self, session: EditSession) -> None:
        """Free the caches of others, then whole sessions, from the least used on."""
        over = self._total - self._budget
        others = [each for each in self._sessions.values() if each is not session]
        for other in others:
            if over <= 0:
                return
            if other.kept.nbytes and not other.busy:
                over -= other.kept.nbytes
                self._later(other.forget())
        for other in others:
            if over <= 0:
                return
            over -= self._sizes[other.id]
            self._forget(other)
            self._gone[other.id] = other.maker.owner
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)
            self._later(other.close("the eviction of its session"))
        if over > 0 and not session.busy:  # its cache alone is too large
            self._later(session.forget())

    def _forget(self, session: EditSession) -> None:
        if self._sessions.pop(session.id, None) is not None:
            self._total -= self._sizes.pop(session.id)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
