"""The onion: stages around the engine, the first one outermost."""

from __future__ import annotations

from typing import ClassVar, Literal

from server.engines.scripted import Scripted, slot_lover
from server.job import Job, Reply, Sampling
from server.pipeline import Plan, compose
from server.prompt import Part, TextPrompt
from server.stages.base import Claim, Level, Need, Proceed, Stage


def asking(text: str = "hello") -> Job:
    return Job("m", Sampling(), prompts=(TextPrompt((Part(text),)),))


async def test_stages_wrap_the_engine_first_one_outermost() -> None:
    trace = []

    class Tracing(Stage):
        level: ClassVar[Level] = Level.READING
        needs: ClassVar[frozenset[Need]] = frozenset()
        claims: ClassVar[frozenset[Claim]] = frozenset()
        stage: Literal["tracing"] = "tracing"
        answer: str

        async def run(self, job: Job, proceed: Proceed) -> Reply:
            trace.append(f"in {self.answer}")
            reply = await proceed(job.but(id=job.id + self.answer))
            trace.append(f"out {self.answer}")
            return reply

    on = Scripted(slot_lover())
    run = compose(Plan((Tracing(answer="1"), Tracing(answer="2"))), on)
    reply = await run(asking())
    assert trace == ["in 1", "in 2", "out 2", "out 1"]
    assert on.works[0].id == "12"
    assert reply.chunks is not None
    assert [chunk.finish_reason async for chunk in reply.chunks][-1] == "stop"
