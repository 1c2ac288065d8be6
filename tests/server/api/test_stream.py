"""The streamed response itself: silence, clients that go, a server that stops."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Message

from server.admission import Admission
from server.api.stream import EventStream
from server.protocol import sse


class Events:
    """Events that come when told, and that know whether they were closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.asked = self.closed = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        self.asked = True
        try:
            while (event := await self.queue.get()) is not None:
                yield event
        finally:
            self.closed = True


class Exchange:
    """One request to an `EventStream`, with everything it sent."""

    def __init__(self, keep_alive: float = 60, breaks: str = "") -> None:
        self.breaks = breaks
        self.events, self.left = Events(), asyncio.Event()
        self.closed = False
        self.admission = Admission(1)
        self.sent: list[bytes] = []
        self.ended = False
        stream = EventStream(
            self.events(),
            close=self.close,
            admission=self.admission,
            place=self.admission.take(),
            silence=keep_alive,
        )
        self.task = asyncio.ensure_future(stream({"type": "http"}, self.receive, self.send))

    async def close(self) -> None:
        self.closed = True

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == self.breaks:
            raise BrokenPipeError
        if message["type"] == "http.response.body" and message["body"]:
            self.sent.append(message["body"])
        self.ended = not message.get("more_body", True)

    async def over(self) -> None:
        """Wait for the end; everything must have been let go."""
        async with asyncio.timeout(5):
            await self.task
        assert self.closed
        assert self.events.closed or not self.events.asked
        assert self.admission.running == 0


async def test_events_are_sent_until_they_end() -> None:
    exchange = Exchange()
    for event in (b"a", b"b", None):
        exchange.events.queue.put_nowait(event)
    await exchange.over()
    assert exchange.sent == [b"a", b"b"]
    assert exchange.ended


async def test_silence_is_filled_with_comments_and_loses_nothing() -> None:
    exchange = Exchange(keep_alive=0.02)
    await asyncio.sleep(0.1)
    exchange.events.queue.put_nowait(b"late")
    exchange.events.queue.put_nowait(None)
    await exchange.over()
    *silence, last = exchange.sent
    assert set(silence) == {sse.KEEP_ALIVE}
    assert len(silence) >= 2
    assert last == b"late"


async def test_a_client_that_goes_closes_the_events_at_once() -> None:
    exchange = Exchange()
    exchange.events.queue.put_nowait(b"a")
    await asyncio.sleep(0.01)
    exchange.left.set()
    await exchange.over()
    assert exchange.sent == [b"a"]


async def test_a_server_that_aborts_says_so() -> None:
    exchange = Exchange()
    exchange.events.queue.put_nowait(b"a")
    await asyncio.sleep(0.01)
    exchange.admission.abort()
    await exchange.over()
    assert exchange.sent[0] == b"a"
    assert b'"code":"shutting_down"' in exchange.sent[1]
    assert exchange.sent[1].endswith(sse.DONE)
    assert exchange.ended


@pytest.mark.parametrize("place", ["http.response.start", "http.response.body"])
async def test_a_client_that_breaks_while_written_to_stops_the_work(place: str) -> None:
    exchange = Exchange(breaks=place)
    exchange.events.queue.put_nowait(b"a")
    await exchange.over()
    assert exchange.sent == []
