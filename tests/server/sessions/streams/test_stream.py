"""A stream over a tiny model: order, holding, limits, and that nothing runs unasked."""

import asyncio

import pytest

from server.engines.hf.engine import HfEngine
from server.errors import PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import ChatPrompt, Message, Part
from server.sessions.streams.policy import Agreement, Policy, Wait
from server.sessions.streams.stream import AHEAD, Asked, Delta, Done, Stream

SPEC = ReadingSpec("group-positions", cut="source-target")
PROMPT = ChatPrompt((Message("user", (Part("Say it again: "),)),))
TEXT = "the cat sat on the mat and the dog sat on the log"


async def opened(engine: HfEngine, policy: Policy, **asked: object) -> Stream:
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    groups = await engine.open_groups(SPEC, PROMPT, sampling)
    return Stream(groups, Asked(policy, **{"max_tokens": 12, **asked}))  # type: ignore[arg-type]


async def whole(stream: Stream) -> tuple[list[Delta], Done]:
    *deltas, done = [each async for each in stream]
    assert isinstance(done, Done)
    return [each for each in deltas if isinstance(each, Delta)], done


async def told(engine: HfEngine, policy: Policy, text: str = TEXT) -> tuple[list[Delta], Done]:
    stream = await opened(engine, policy)
    await stream.append(text)
    await stream.end()
    found = await whole(stream)
    await stream.close()
    return found


@pytest.mark.parametrize("policy", [Wait(1, hold=False), Wait(3), Wait(None), Agreement(2)])
async def test_it_says_something_and_how_late(engine: HfEngine, policy: Policy) -> None:
    deltas, done = await told(engine, policy)
    assert done.finish_reason == "length"
    assert done.usage["target_tokens"] == 12
    read = [each.read for each in deltas]
    assert read == sorted(read)
    assert done.latency["average_lagging"] <= len(TEXT.split())


async def test_all_reads_all_before_it_writes(engine: HfEngine) -> None:
    deltas, done = await told(engine, Wait(None))
    assert {each.read for each in deltas} == {len(TEXT.split())}
    assert done.usage["source_tokens_fed"] == done.usage["source_tokens"]


async def test_wait_k_begins_at_k_words_while_the_source_is_open(engine: HfEngine) -> None:
    stream = await opened(engine, Wait(3, hold=False))
    await stream.append("the cat sat on")
    first = await anext(aiter(stream))
    assert isinstance(first, Delta)
    assert first.read == 3
    await stream.close()


async def test_how_the_source_comes_changes_nothing(engine: HfEngine) -> None:
    once, _ = await told(engine, Wait(3))
    stream = await opened(engine, Wait(3))

    async def send() -> None:
        for character in TEXT:
            await stream.append(character)
            await asyncio.sleep(0)
        await stream.end()

    sending = asyncio.create_task(send())
    slow, _ = await whole(stream)
    await sending
    assert slow == once


async def test_a_source_that_stays_away_ends_the_stream(engine: HfEngine) -> None:
    stream = await opened(engine, Wait(3), idle=0.05)
    await stream.append("the cat ")
    with pytest.raises(PlanError, match=r"within 0\.05 seconds"):
        await whole(stream)


async def test_who_sends_more_than_is_read_waits(engine: HfEngine) -> None:
    stream = await opened(engine, Wait(3))
    sending = asyncio.create_task(stream.append("a " * 10 * AHEAD))
    await asyncio.sleep(0.05)
    assert not sending.done()
    assert len(stream._source.pieces) == AHEAD
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_behind_the_end_nothing_comes(engine: HfEngine) -> None:
    stream = await opened(engine, Wait(3))
    await stream.end()
    with pytest.raises(PlanError, match="behind its end"):
        await stream.append("more")


async def test_many_that_are_left_leave_nothing(engine: HfEngine) -> None:
    streams = []
    for _ in range(50):
        stream = await opened(engine, Wait(1, hold=False))
        await stream.append("the cat sat ")
        await anext(aiter(stream))
        await stream.close()
        streams.append(stream)
    assert not any(each._groups.nbytes for each in streams)  # type: ignore[attr-defined]
