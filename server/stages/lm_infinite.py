"""LM-Infinite: a text without end is read through a window (arXiv 2308.16137)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from server.errors import PlanError
from server.job import Job, ReadingSpec, Reply
from server.stages.base import Claim, Level, Need, Proceed, Stage


class LmInfinite(Stage):
    """Recent tokens are seen where they are, the first ones always; what lies between is not seen.

    first       tokens at the beginning that are always seen; 1 to 100 do alike
    window      tokens that are seen where they are; None = as many as the model was trained to
                read, which is best: fewer save memory, and cost context
    cap         distance at which the first tokens appear; None = the window
    first_zero  whether `first` may be 0

    A prompt may be of any length: it is read in pieces, in memory for the window. This is no long
    memory: the reply's notes say how many tokens are out of sight.
    """

    level: ClassVar[Level] = Level.READING
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"positions", "visibility"})

    stage: Literal["lm-infinite"] = "lm-infinite"
    first: int = Field(10, ge=0, le=4096)
    window: int | None = Field(None, ge=16, le=2**24)
    cap: int | None = Field(None, ge=1, le=2**24)
    first_zero: bool = False

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading; what depends on the model is left to the engine."""
        given = {"first": self.first, "window": self.window, "cap": self.cap}
        numbers = ((name, number) for name, number in given.items() if number is not None)
        return ReadingSpec(self.stage, tuple(numbers))

    def check(self, job: Job) -> None:
        """Refuse a text without its first tokens, on which attention rests (PlanError)."""
        if not self.first and not self.first_zero:
            raise PlanError(
                f"stage {self.stage!r} field 'first' must be at least 1, got 0; give more, since "
                "attention rests on the first tokens, or say `first_zero: true`",
                param="stages",
            )

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed with the reading."""
        return await proceed(job.but(reading=self.reading))
