"""A judge without a ladder: all stages around it are one rung, and nothing is left running."""

from __future__ import annotations

import asyncio

import pytest
from ballots import judging

from server.chunk import Chunk
from server.engines.scripted import Answer, Scripted, slot_lover
from server.errors import EngineError
from server.judge.ladder import climb
from server.pipeline import Plan, plan
from server.prompt import Message
from server.stages.swap import Swap

PINE, SWAP = {"stage": "pine"}, {"stage": "swap"}


def engine() -> Scripted:
    return Scripted(slot_lover(), ("text", "logprobs", "attention"))


async def test_no_stage_is_skipped() -> None:
    on = engine()
    stages = plan([SWAP, PINE], engine=on, job=judging())
    reply = await climb(stages, on)(judging())
    assert [call.order for call in reply.calls] == [(0, 1), (1, 0)]
    assert all(call.stages == ("swap", "pine") for call in reply.calls)
    for seen in on.works:
        [message] = seen.prompts[0].messages  # type: ignore[union-attr]
        assert sum(part.group is not None for part in message.parts) == 2
        assert seen.reading is not None


async def test_a_plain_ballot_keeps_the_callers_order_and_the_stock_path() -> None:
    on = engine()
    [call] = (await climb(Plan(()), on)(judging("y", "x"))).calls
    assert call.order == (0, 1)
    assert on.works[0].reading is None
    [message] = on.works[0].prompts[0].messages  # type: ignore[union-attr]
    assert message == Message("user", message.parts)
    assert all(part.group is None for part in message.parts)


async def test_a_failing_call_leaves_nothing_running() -> None:
    on = Scripted([Answer("A", {"A": -0.1, "B": -3.0, "T": -9.0})])  # nothing for the second call
    with pytest.raises(EngineError, match="script must have an answer left"):
        await climb(Plan((Swap(),)), on)(judging())
    assert on.running == 0


class Waiting:
    """A stream that never comes to anything, and counts how often it is closed."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.closed = 0

    def __aiter__(self) -> Waiting:
        return self

    async def __anext__(self) -> Chunk:
        self.reached.set()
        await asyncio.Event().wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_cancelled_judge_closes_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    on, streams = engine(), [Waiting(), Waiting()]
    left = iter(streams)
    monkeypatch.setattr(on, "_stream", lambda job: next(left))
    work = asyncio.ensure_future(climb(Plan((Swap(),)), on)(judging()))
    async with asyncio.timeout(5):
        for stream in streams:
            await stream.reached.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert [stream.closed for stream in streams] == [1, 1]
