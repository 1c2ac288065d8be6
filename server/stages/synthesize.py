"""Synthesize: on conflict, show what was said in both orders, and judge again."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from server.job import Job, Reply
from server.judge.ballot import Call, Statement
from server.judge.letters import letters
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
    case_of,
)
from server.stages.swap import Swap


class Evidence(Stage):
    """Its first rung: every order is explained before it is decided."""

    level: ClassVar[Level] = Level.TEXT
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    claims: ClassVar[frozenset[Claim]] = frozenset()

    stage: Literal["evidence"] = "evidence"

    def prepare(self, job: Job) -> Job:
        """Ask for evidence."""
        return asking(job, replace(ballot_of(job), evidence=True))

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed with evidence asked for."""
        return await proceed(self.prepare(job))


class Debate(Stage):
    """Its second rung: what was said on the rung below is shown beside the answers."""

    level: ClassVar[Level] = Level.TEXT
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    claims: ClassVar[frozenset[Claim]] = frozenset()

    stage: Literal["synthesize"] = "synthesize"

    async def run(self, job: Job, proceed: Proceed) -> Reply:
        """Proceed with the explanations."""
        debate = tuple(map(_statement, case_of(job).history))
        return await proceed(asking(job, replace(ballot_of(job), debate=debate)))


def _statement(call: Call) -> Statement:
    return Statement(call.text, call.order, letters(call.ballot))


class Synthesize(Ladder):
    """Explain in both orders; if the verdicts differ, judge again with both explanations shown.

    source  LLMBar (arXiv 2310.07641), swap and synthesize
    """

    implies: ClassVar[tuple[Stage, ...]] = (Swap(),)
    claims: ClassVar[frozenset[Claim]] = frozenset({"order"})

    stage: Literal["synthesize"] = "synthesize"

    def rungs(self) -> tuple[RungStages, ...]:
        """Return the rung that explains, then the one that is shown the explanations."""
        return RungStages("evidence", (Evidence(),)), RungStages(self.stage, (Debate(),))
