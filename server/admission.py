"""How many requests run at once, and how the server empties before it stops."""

from __future__ import annotations

import asyncio
from types import TracebackType

from server.errors import EngineError, Overloaded

RETRY_SECONDS = 1


class Place:
    """One request's place; given back exactly once, however often `release` is called."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def release(self) -> None:
        """Give the place back."""
        if self._admission is not None:
            self._admission.leave()
            self._admission = None

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Admission:
    """A fixed number of places, and the two steps of stopping.

    limit     requests at once; `take` raises `Overloaded` (429) beyond
    draining  after `drain`: `take` raises EngineError (503), running requests go on
    aborted   set by `abort`: running requests stop with an error now
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.draining = False
        self.aborted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self) -> Place:
        """Take a place, or raise at once; `with admission.take():` gives it back."""
        if self.draining:
            raise self.stopping()
        if self.running >= self.limit:
            raise Overloaded(
                f"requests running at once must be at most {self.limit}, got one more; "
                f"try again in {RETRY_SECONDS} s",
                code="queue_full",
                retry_after=RETRY_SECONDS,
            )
        self.running += 1
        self._idle.clear()
        return Place(self)

    def leave(self) -> None:
        """Give one place back."""
        self.running -= 1
        if self.running == 0:
            self._idle.set()

    def drain(self) -> None:
        """Let nobody else in."""
        self.draining = True

    def abort(self) -> None:
        """Stop what is still running."""
        self.drain()
        self.aborted.set()

    async def idle(self, seconds: float) -> bool:
        """Wait until nothing runs; return False if that takes longer."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    @staticmethod
    def stopping() -> EngineError:
        """Return the error of a request that met a stopping server (503)."""
        return EngineError(
            "server must be running to answer, got a request while it stops; "
            "try again when /ready answers 200",
            status=503,
            code="shutting_down",
            retry_after=5,
        )
