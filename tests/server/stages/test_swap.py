"""Swap: every candidate in every slot, at the same time."""

from __future__ import annotations

import asyncio

import pytest

from server.chunk import Usage
from server.job import Job, Reply, Sampling
from server.judge.ballot import Ballot, Call, Candidate, Case
from server.stages.swap import Swap


def job(*texts: str) -> Job:
    candidates = tuple(Candidate(str(i), text, i) for i, text in enumerate(texts))
    return Job("m", Sampling(), case=Case(Ballot("Q?", candidates)))


def replied(made: Job) -> Reply:
    assert made.ballot is not None and made.ballot.order is not None
    return Reply(
        calls=(Call(made.ballot, ("A", "B", "T"), None, "A", 0, None, "A", Usage()),),
        notes={"inner": made.ballot.order},
    )


async def test_the_orders_depend_on_the_texts_alone() -> None:
    seen = []
    for texts in (("b", "a", "c"), ("c", "b", "a"), ("a", "c", "b")):
        made = job(*texts)
        assert Swap().calls(made) == 3

        async def proceed(each: Job) -> Reply:
            return replied(each)

        reply = await Swap().run(made, proceed)
        seen.append([[texts[index] for index in call.order] for call in reply.calls])
        assert reply.notes["swap"] == {"orders": 3}
        assert len(reply.notes["inner"]) == 3
    assert seen == [[["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]] * 3


async def test_the_calls_run_at_the_same_time() -> None:
    everyone = asyncio.Barrier(3)

    async def proceed(each: Job) -> Reply:
        await everyone.wait()
        return replied(each)

    async with asyncio.timeout(5):
        assert len((await Swap().run(job("a", "b", "c"), proceed)).calls) == 3


async def test_one_failure_stops_the_other_calls() -> None:
    stopped = []

    async def proceed(each: Job) -> Reply:
        assert each.ballot is not None
        if each.ballot.order == (1, 0):
            raise RuntimeError("broken")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(each.ballot.order)
            raise
        return replied(each)

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="broken"):
            await Swap().run(job("a", "b"), proceed)
    assert stopped == [(0, 1)]


async def test_cancelling_the_judge_stops_every_call() -> None:
    started, stopped = asyncio.Barrier(3), []

    async def proceed(each: Job) -> Reply:
        try:
            await started.wait()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(each)
            raise
        return replied(each)

    work = asyncio.create_task(Swap().run(job("a", "b"), proceed))
    async with asyncio.timeout(5):
        await started.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(stopped) == 2
