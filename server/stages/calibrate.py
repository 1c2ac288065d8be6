"""Calibrate: one call, corrected by what the judge is known to give the first slot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from math import fsum, sqrt
from typing import ClassVar, Literal

from pydantic import Field

from server.concurrency import together
from server.errors import EngineError, PlanError
from server.job import Job, Reply
from server.judge.ballot import Ballot, Candidate
from server.judge.bias import corrected, key, lead
from server.judge.calibration import ENOUGH, Bias
from server.judge.call import vote
from server.stages.base import (
    Claim,
    Level,
    Need,
    Proceed,
    Stage,
    asking,
    ballot_of,
    case_of,
    check_two,
)

CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021 (arXiv 2102.09690), section 5
Source = Literal["self", "content-free"]


class Calibrate(Stage):
    """Take the mean slot bias from the margin of a single call (spec portia-and-judge 2).

    min_count  observations that the mean must have; requests with `swap` make them
    probe      None = the mean is that of the store; self = that of each candidate against itself;
               content-free = that of texts that say nothing. Probes are calls of their own

    The call is made in the canonical order, so the caller's does not matter; but the other order is
    never seen, so it is `single`, unless a reading inside knows no order.
    """

    level: ClassVar[Level] = Level.VERDICT
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates", "logprobs"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"order", "answer"})

    stage: Literal["calibrate"] = "calibrate"
    min_count: int = Field(ENOUGH, ge=1)
    probe: Source | None = None

    def prepare(self, job: Job) -> Job:
        """Refuse more than two candidates (PlanError)."""
        check_two(self.stage, job)
        return job

    def check(self, job: Job) -> None:
        """Refuse a bias that is not known well enough (PlanError)."""
        if self.probe is None:
            self._known(job, ballot_of(job))

    def calls(self, job: Job) -> int:
        """Return one, and one for each probe."""
        return 1 + len(self._probes(ballot_of(job)))

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed once on the canonical order, and correct what comes back."""
        ballot = ballot_of(job)
        first = asking(job, replace(ballot, order=ballot.canonical()))
        asked = [first, *(asking(job, probe) for probe in self._probes(ballot))]
        reply, *probed = await together([proceed(each) for each in asked])
        probes = tuple(call for each in probed for call in each.calls)
        if self.probe is None:
            bias = await asyncio.to_thread(self._known, job, reply.calls[0].ballot)
        else:
            bias = _mean([lead(call) for call in probes if call.values is not None])
        note = {
            "source": self.probe or "store",
            "mean": bias.mean,
            "count": bias.count,
            "standard_error": bias.standard_error,
        }
        votes = tuple(vote(corrected(call, bias.mean)) for call in reply.calls)
        notes = {self.stage: note, **reply.notes}
        return replace(reply, votes=votes, probes=probes, notes=notes)

    def _known(self, job: Job, ballot: Ballot) -> Bias:
        """Return the store's mean for such a ballot (PlanError)."""
        case = case_of(job)
        store = case.calibration
        known = None if store is None else store.of(key(case, ballot))
        if known is None or known.count < self.min_count:
            raise PlanError(
                f"stage {self.stage!r} must know the slot bias from at least {self.min_count} "
                f"verdicts, got {known.count if known else 0} of this model, template, form and "
                "labels; send requests with stage 'swap', which show it, or give the field 'probe'",
                param="stages",
            )
        return known

    def _probes(self, ballot: Ballot) -> list[Ballot]:
        """Return ballots on which nothing but the slot can decide, in canonical order."""
        if self.probe is None:
            return []
        own = [ballot.candidates[index].text for index in ballot.canonical()]
        return [
            replace(ballot, candidates=_twins(text), order=(0, 1))
            for text in (own if self.probe == "self" else CONTENT_FREE)
        ]


def _twins(text: str) -> tuple[Candidate, Candidate]:
    return Candidate("0", text, 0), Candidate("1", text, 1)


def _mean(leads: Sequence[float]) -> Bias:
    """Return the mean with its standard error (EngineError without a lead)."""
    count = len(leads)
    if not count:
        raise EngineError(
            "probe must have an answer that can be read, got none; use another form or model"
        )
    mean = fsum(leads) / count
    squares = fsum((each - mean) ** 2 for each in leads)
    error = sqrt(squares / (count - 1) / count) if count > 1 else None
    return Bias(mean, count, error)
