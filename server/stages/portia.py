"""PORTIA: the answers cut into parts that belong together, and shown part by part in turn."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from portia.align import align
from server.job import Job, Reply
from server.judge.ballot import FormName
from server.stages.base import (
    Claim,
    Ladder,
    Level,
    Need,
    Proceed,
    RungStages,
    Stage,
    asking,
    ballot_of,
    check_two,
)
from server.stages.swap import Swap

How = Literal["length", "meaning"]


class Parted(Stage):
    """One of its rungs: the answers in parts, cut once for all orders inside.

    how       length = about equally long parts; meaning = the most similar facing parts
    """

    level: ClassVar[Level] = Level.TEXT
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    claims: ClassVar[frozenset[Claim]] = frozenset({"parts"})

    stage: Literal["portia"] = "portia"
    how: How
    parts: int
    form: FormName | None
    language: str

    def prepare(self, job: Job) -> Job:
        """Set the form (PlanError for more than two candidates)."""
        check_two(self.stage, job)
        ballot = ballot_of(job)
        return asking(job, replace(ballot, form=self.form or ballot.form))

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed with the parts; an answer of one part makes it the plain prompt."""
        job = self.prepare(job)
        ballot = ballot_of(job)
        first, second = ballot.texts
        cut = partial(align, first, second, self.parts, self.how, self.language)
        parts = await asyncio.to_thread(cut)
        ballot = replace(ballot, parts=parts if len(parts[0]) > 1 else ())
        reply = await proceed(asking(job, ballot))
        return replace(reply, notes={self.stage: {"parts": len(parts[0])}, **reply.notes})


class Portia(Ladder):
    """Split, align and merge (arXiv 2310.01432), on conflict with a better alignment.

    parts     of each answer; fewer where one has fewer units
    form      of its questions; None = the request's
    start     length = the first rung has parts of equal length; original = it has the whole answers
    language  code of the sentence rules
    """

    implies: ClassVar[tuple[Stage, ...]] = (Swap(),)
    claims: ClassVar[frozenset[Claim]] = frozenset({"order", "parts"})

    stage: Literal["portia"] = "portia"
    parts: int = Field(3, ge=1, le=12)
    form: FormName | None = None
    start: Literal["length", "original"] = "length"
    language: str = Field("en", pattern=r"^[a-z]{2,3}$")

    def rungs(self) -> tuple[RungStages, ...]:
        """Return a rung per alignment, behind one with whole answers if it starts so."""
        whole = Swap().rungs() if self.start == "original" else ()
        return (*whole, self._rung("length"), self._rung("meaning"))

    def _rung(self, how: How) -> RungStages:
        parted = Parted(how=how, parts=self.parts, form=self.form, language=self.language)
        return RungStages(f"{self.stage} {how}", (parted,))
