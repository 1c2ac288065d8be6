"""LM-Infinite: a text without end is read through a window (arXiv 2308.16137)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from server.job import Job, ReadingSpec, Reply
from server.stages.base import Claim, Level, Need, Proceed, Stage


class LmInfinite(Stage):
    """Recent tokens are seen where they are, the first ones always; what lies between is not seen.

    first   tokens at the beginning that are always seen
    window  tokens that are seen where they are; None = the model's context, which is best
    cap     distance at which the first tokens appear; None = the window
    """

    level: ClassVar[Level] = Level.READING
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"positions", "visibility"})

    stage: Literal["lm-infinite"] = "lm-infinite"
    first: int = Field(10, ge=1, le=4096)
    window: int | None = Field(None, ge=16, le=2**20)
    cap: int | None = Field(None, ge=1, le=2**20)

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading."""
        numbers = ("first", self.first), ("window", self.window), ("cap", self.cap)
        given = tuple((name, number) for name, number in numbers if number is not None)
        return ReadingSpec(self.stage, given)

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed with the reading."""
        return await proceed(job.but(reading=self.reading))
