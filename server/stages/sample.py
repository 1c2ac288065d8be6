"""Sample: several answers to every prompt, each with its evidence first."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from server.job import Job, Reply
from server.stages.base import Claim, Level, Need, Proceed, RungStages, Stage, asking, ballot_of
from server.stages.swap import Swap


class Sample(Stage):
    """The verdict of a call is that of most of `k` answers, which explain before they decide.

    k            answers to one prompt
    temperature  at which they are drawn; from the request's seed, or seed 0
    max_tokens   of one answer; None = the request's, or 512
    """

    level: ClassVar[Level] = Level.TEXT
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"answer"})
    implies: ClassVar[tuple[Stage, ...]] = (Swap(),)

    stage: Literal["sample"] = "sample"
    k: int = Field(5, ge=1, le=128)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)

    def prepare(self, job: Job) -> Job:
        """Ask for several answers with evidence."""
        sampling = replace(
            job.sampling,
            n=self.k,
            temperature=self.temperature,
            seed=job.sampling.seed or 0,
            max_tokens=self.max_tokens or job.sampling.max_tokens,
        )
        ballot = replace(ballot_of(job), evidence=True)
        return asking(job.but(sampling=sampling), ballot)

    def calls(self, job: Job) -> int:
        """Return the number of answers."""
        return self.k

    def rungs(self) -> tuple[RungStages, ...]:
        """Return nothing: it is part of every rung."""
        return ()

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed once; the answers come out of one call."""
        reply = await proceed(self.prepare(job))
        answers = [each for call in reply.calls for each in (call.samples or (call,))]
        unread = sum(answer.verdict is None for answer in answers)
        note = {"answers": len(answers), "unparsed": unread}
        return replace(reply, notes={self.stage: note, **reply.notes})
