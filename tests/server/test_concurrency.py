"""Much to do, a few at once: nothing lost or done twice, never too many, all stopped at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.concurrency import closed, completed, each, unbroken


@given(
    delays=st.lists(st.integers(0, 4), max_size=30),
    at_once=st.integers(1, 6),
    slow=st.booleans(),
)
async def test_every_thing_once_and_never_too_many(
    delays: list[int], at_once: int, slow: bool
) -> None:
    taken = most = yielded = 0

    async def things() -> AsyncIterator[int]:
        nonlocal taken
        for index in range(len(delays)):
            taken += 1
            yield index

    async def work(index: int) -> int:
        nonlocal most
        most = max(most, taken - yielded)
        for _ in range(delays[index]):
            await asyncio.sleep(0)
        return index

    found = []
    async for index in completed(things(), work, at_once):
        yielded += 1
        found.append(index)
        if slow:
            await asyncio.sleep(0)
        assert taken - yielded <= at_once
    assert sorted(found) == list(range(len(delays)))
    assert most <= at_once


async def test_results_come_in_order_of_completion() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def work(index: int) -> int:
        await gates[index].wait()
        return index

    results = completed(each(range(3)), work, 3)
    for index in (2, 0, 1):
        gates[index].set()
        assert await anext(results) == index
    assert await anext(results, None) is None


async def test_who_stops_reading_stops_the_work() -> None:
    begun, ended = [], []

    async def work(index: int) -> int:
        begun.append(index)
        try:
            await asyncio.sleep(0 if index == 0 else 60)
        finally:
            ended.append(index)
        return index

    async with aclosing(completed(each(range(9)), work, 3)) as results:
        assert await anext(results) == 0
    assert sorted(ended) == begun
    assert len(begun) <= 4


async def test_a_failure_stops_the_rest_and_is_raised() -> None:
    ended, both = [], asyncio.Barrier(2)

    async def work(index: int) -> int:
        try:
            await both.wait()
            await asyncio.sleep(60 if index else 0)
            raise KeyError(index)
        finally:
            ended.append(index)

    with pytest.raises(KeyError):
        async for _ in completed(each(range(2)), work, 2):
            pass
    assert sorted(ended) == [0, 1]


async def test_a_source_that_waits_does_not_hold_back_what_is_done() -> None:
    more = asyncio.Event()

    async def things() -> AsyncIterator[int]:
        yield 0
        await more.wait()
        yield 1

    async def work(index: int) -> int:
        return index

    results = completed(things(), work, 2)
    async with asyncio.timeout(5):
        assert await anext(results) == 0
        more.set()
        assert [index async for index in results] == [1]


async def test_what_must_not_be_left_half_done_is_awaited_by_who_is_cancelled() -> None:
    go, done = asyncio.Event(), list[int]()

    async def work() -> int:
        await go.wait()
        done.append(1)
        return 7

    waiting = asyncio.create_task(unbroken(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == [1]
    assert await unbroken(work()) == 7


async def test_a_stream_is_closed_if_it_can_be() -> None:
    ended = list[int]()

    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append(1)

    begun = stream()
    assert await anext(begun) == 1
    await closed(begun)
    assert ended == [1]
    await closed(iter(()))
