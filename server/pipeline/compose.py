"""The onion: stages folded around the engine, the first stage outermost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Protocol

from server.chunk import Chunk
from server.job import Job, Reply, Work
from server.pipeline.plan import Plan
from server.stages.base import Proceed, Stage


class Answers(Protocol):
    """An engine, or what answers with one."""

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        """Start work (see `server.engines.base.Engine`)."""
        ...


def compose(plan: Plan, engine: Answers) -> Proceed:
    """Fold the plan around the engine, for one request."""

    async def generate(job: Job) -> Reply:
        return Reply(chunks=await engine.generate(job.work))

    return fold((*plan.outer, *plan.rungs[0].stages), generate)


def fold(stages: Iterable[Stage], proceed: Proceed) -> Proceed:
    """Fold stages around what they proceed to, the first outermost."""
    for stage in reversed(tuple(stages)):
        proceed = _around(stage, proceed)
    return proceed


def _around(stage: Stage, proceed: Proceed) -> Callable[[Job], Awaitable[Reply]]:
    async def answer(job: Job) -> Reply:
        return await stage.run(job, proceed)

    return answer
