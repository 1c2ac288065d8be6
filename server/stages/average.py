"""Average: several orders of a set, asked side by side, and one answer that is made of all."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from kvedit.orders import orders
from portia.verdict import decide
from server.job import Job, ReadingSpec, Reply
from server.judge.averaged import averaged
from server.judge.call import vote
from server.stages.as_set import SetStage
from server.stages.base import Claim, Level, Need, Proceed, asking, ballot_of
from server.stages.swap import in_orders


class Average(SetStage):
    """The mean over orders of the canonical set: what the model can do, and no order matters.

    orders  how many, at most twice as many as there are documents; None = two of documents, or one
            for each candidate
    mean    of log-probabilities, or of probabilities

    Documents are read in all orders in one batch, and the next token is taken from the mean at
    every step. Candidates are shown in each order, as `swap` shows them, and one decision is made
    of the mean of their labels' log-probabilities: it needs no more than those of an engine. With
    `pine` inside it is the labels that change.
    """

    level: ClassVar[Level] = Level.VERDICT
    needs: ClassVar[frozenset[Need]] = frozenset({"set"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"order", "answer"})

    stage: Literal["average"] = "average"
    orders: int | None = Field(None, ge=1, le=64)
    mean: Literal["log", "probability"] = "log"

    @property
    def reading(self) -> ReadingSpec:
        """Return the reading of documents."""
        numbers = (("orders", self.orders or 0), ("probabilities", self.mean == "probability"))
        return ReadingSpec(self.stage, numbers, cut="set")

    def reading_of(self, job: Job) -> ReadingSpec | None:
        """Return the reading of documents; candidates are shown in text."""
        return self.reading if job.ballot is None else None

    def needed(self, job: Job) -> frozenset[Need]:
        """Return what documents need of an engine, and what candidates do."""
        return self.needs | {"attention" if job.ballot is None else "logprobs"}

    def prepare(self, job: Job) -> Job:
        """Return the job of the first order, or with its documents cut out (PlanError)."""
        if job.ballot is None:
            return super().prepare(job)
        self._check_delimiters()
        return asking(job, replace(job.ballot, order=job.ballot.canonical()))

    def calls(self, job: Job) -> int:
        """Return the number of orders that candidates are shown in; documents take one call."""
        if job.ballot is None:
            return 1
        count = len(job.ballot.candidates)
        return len(orders(count, self.orders or count))

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed once on documents; on candidates once per order, and decide once."""
        if job.ballot is None:
            return await super().run(job, proceed)
        count = self.calls(job)
        calls, inner = await in_orders(job, count, proceed)
        ballot = ballot_of(job)
        bias = decide(tuple(map(vote, calls)), ballot.texts).slot_bias
        one = averaged(calls, ballot.canonical())
        note = {"orders": count, "slot_bias": bias}
        notes = {self.stage: note, **inner}
        return Reply(calls=calls, notes=notes, votes=(one,), order_free=True, rung=self.stage)
