"""PIE: a text that is edited keeps its cache, and is healed (arXiv 2407.03157)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from server.job import Job, ReadingSpec, Reply
from server.stages.base import Claim, Level, Need, Proceed, Stage


class Pie(Stage):
    """Positional integrity encoding: what an edit leaves is kept, and moves.

    heal_after  kept tokens behind each edit that are computed again; behind what is typed into a
                hole up to twice as many, the more is typed, and twice as many as that at least
    heal_read   tokens that the answer reads most and that an edit has left as they were: these are
                computed again before an answer, up to this share of the text
    max_edits   from one exact text to the next; then all behind the first change is computed again
    exact       compute everything behind the first change, always

    The paper's technique is `heal_after` 0 and `heal_read` 0; on real code it leaves half of an
    edit's effect out. Marks (of turns, files, and of the hole to be filled in) are computed again
    in any case, and the rest whenever the server is idle, until the text is exact.
    """

    level: ClassVar[Level] = Level.CACHE
    needs: ClassVar[frozenset[Need]] = frozenset({"attention", "session"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"cache", "positions", "visibility"})

    stage: Literal["pie"] = "pie"
    heal_after: int = Field(32, ge=0, le=4096)
    heal_read: float = Field(0.05, ge=0, le=1)
    max_edits: int = Field(20, ge=0, le=10_000)
    exact: bool = False

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading that a session's text is read with."""
        numbers = (
            ("heal_after", self.heal_after),
            ("heal_read", self.heal_read),
            ("max_edits", self.max_edits),
            ("exact", self.exact),
        )
        return ReadingSpec(self.stage, numbers)

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed: the session reads so already."""
        return await proceed(job.but(reading=self.reading))
