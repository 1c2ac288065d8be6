"""An engine that passes its work on: retries, patience, places, and its key."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from live import eventually
from other_server import KEY, Answer, OtherServer, event, failed, other_server, streamed
from starlette.responses import JSONResponse, StreamingResponse

from server.chunk import Chunk
from server.engines.remote import Access, RemoteEngine
from server.errors import EngineError, EvenhandError, PlanError
from server.job import Sampling, Work
from server.prompt import ChatPrompt, Message, Part

Make = Callable[..., Awaitable[RemoteEngine]]

EVENTS = "text/event-stream"
PROMPT = ChatPrompt((Message("user", (Part("Hello"),)),))


@pytest.fixture
def theirs() -> Iterator[OtherServer]:
    with other_server() as made:
        yield made


@pytest.fixture
async def make(theirs: OtherServer) -> AsyncIterator[Make]:
    """Yield a maker of engines for that server."""
    engines: list[RemoteEngine] = []

    async def made(url: str | None = None, **options: Any) -> RemoteEngine:
        reach = {name: options.pop(name) for name in ("timeout", "retries") if name in options}
        access = Access(url or theirs.address, KEY, **reach)
        options = {"logprobs": "yes", **options}
        engines.append(await asyncio.to_thread(RemoteEngine.load, access, **options))
        return engines[-1]

    yield made
    for engine in engines:
        await engine.close()


async def ask(engine: RemoteEngine, prompts: int = 1, **numbers: Any) -> list[Chunk]:
    work = Work((PROMPT,) * prompts, Sampling(**numbers))
    return [chunk async for chunk in await engine.generate(work)]


async def test_where_and_what_a_model_is_stands_for_its_weights(
    theirs: OtherServer, make: Make
) -> None:
    theirs.models = JSONResponse({"data": [{"id": "theirs"}, {"id": "other"}]})
    engines = [await make(), await make(model="other"), await make(f"{theirs.address}/")]
    theirs.models = JSONResponse({"data": [{"id": "theirs", "root": "/weights/new"}]})
    engines += [await make(), await make(name="ours")]
    found = [engine.info.weights for engine in engines]
    assert found[0] == found[2] and found[3] == found[4]
    assert len(set(found)) == 3


async def test_a_well_server(theirs: OtherServer, make: Make) -> None:
    engine = await make(name="ours")
    chunks = await ask(engine)
    assert "".join(chunk.text for chunk in chunks) == "Hi there"
    assert chunks[-1].finish_reason == "stop"
    assert theirs.bodies[0]["model"] == "theirs"
    assert set(theirs.keys) == {f"Bearer {KEY}"}
    assert (engine.info.id, engine.info.root) == ("ours", f"{theirs.address}/models/theirs")


@pytest.mark.parametrize("labels", [(), ("A", "B")])
async def test_what_may_pass_is_tried_again_so_many_times(
    theirs: OtherServer, make: Make, labels: tuple[str, ...]
) -> None:
    engine = await make(retries=2)
    entire = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    well: Answer = lambda body: JSONResponse(entire) if labels else streamed("Hi")  # noqa: E731
    theirs.answers = [failed(500), failed(429), well]
    assert "".join(chunk.text for chunk in await ask(engine, labels=labels)) == "Hi"
    assert len(theirs.bodies) == 3
    theirs.answers = [failed(500)]
    with pytest.raises(EngineError):
        await ask(engine, labels=labels)
    assert len(theirs.bodies) == 6
    theirs.answers = [failed(400)]
    with pytest.raises(PlanError):
        await ask(engine, labels=labels)
    assert len(theirs.bodies) == 7


async def test_a_slow_server(theirs: OtherServer, make: Make) -> None:
    engine = await make(retries=1, timeout=0.2)
    theirs.wait = 1.0
    with pytest.raises(EngineError, match=r"must answer within 0\.2 s") as caught:
        await ask(engine)
    assert (caught.value.status, caught.value.retry_after) == (504, 2)
    assert len(theirs.bodies) == 2


async def test_a_stream_that_falls_silent(theirs: OtherServer, make: Make) -> None:
    async def silent() -> AsyncIterator[str]:
        yield event("Hi")
        await asyncio.sleep(1)

    engine = await make(retries=0, timeout=0.2)
    theirs.answers = [lambda body: StreamingResponse(silent(), media_type=EVENTS)]
    stream = await engine.generate(Work((PROMPT,), Sampling()))
    with pytest.raises(EngineError, match=r"must answer within 0\.2 s"):
        async for _ in stream:
            pass


async def test_a_server_that_is_not_there(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets it
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EngineError, match=f"got no connection to {url} or a broken one") as one:
            await make(url, retries=0)
    assert (one.value.status, one.value.retry_after) == (502, 2)


async def test_no_more_requests_at_once_than_allowed(theirs: OtherServer, make: Make) -> None:
    engine = await make(concurrency=3)
    theirs.wait = 0.05
    chunks = await asyncio.gather(*(ask(engine, prompts=3) for _ in range(3)))
    assert theirs.most == 3
    assert len(theirs.bodies) == 9
    for each in chunks:
        assert sorted(chunk.index for chunk in each if chunk.finish_reason) == [0, 1, 2]


async def test_an_error_of_one_prompt_ends_the_others(theirs: OtherServer, make: Make) -> None:
    engine = await make(retries=0, concurrency=1)
    theirs.answers = [failed(500)]
    with pytest.raises(EngineError):
        await ask(engine, prompts=20)
    assert len(theirs.bodies) < 20
    theirs.answers = [lambda body: streamed("Hi")]
    assert await ask(engine)  # the place was given back


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_stream_that_is_closed_or_dropped_hangs_up(
    theirs: OtherServer, make: Make, dropped: bool
) -> None:
    ended: list[str] = []

    async def endless(name: str) -> AsyncIterator[str]:
        try:
            while True:
                yield event("Hi")
                await asyncio.sleep(0.01)
        finally:
            ended.append(name)

    def answer(body: dict[str, Any]) -> StreamingResponse:
        name = body["messages"][0]["content"]
        return StreamingResponse(endless(name), media_type=EVENTS)

    engine = await make(concurrency=2)
    theirs.answers = [answer]
    stream = await engine.generate(Work((PROMPT,) * 3, Sampling()))
    for _ in range(9):
        assert await anext(stream)
    assert ended == []
    if dropped:
        del stream
    else:
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    await asyncio.to_thread(eventually, lambda: len(ended) == 2)
    await asyncio.sleep(0.05)
    assert len(theirs.bodies) == 2  # the third was never asked


async def test_an_error_in_one_stream_closes_the_others(theirs: OtherServer, make: Make) -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            yield event("Hi")
            await asyncio.sleep(0.01)

    async def broken() -> AsyncIterator[str]:
        yield event("Hi")
        await asyncio.sleep(0.2)
        yield 'data: {"error": {"message": "no"}}\n\n'

    engine = await make()
    streams = [broken(), endless()]
    theirs.answers = [lambda body: StreamingResponse(streams.pop(), media_type=EVENTS)]
    stream = await engine.generate(Work((PROMPT,) * 2, Sampling()))
    with pytest.raises(EngineError, match="must be well, got an error in its stream"):
        async for _ in stream:
            pass
    assert [chunk async for chunk in stream] == []


async def test_after_it_was_closed(make: Make) -> None:
    engine = await make()
    before = engine.alive
    await engine.close()
    assert (before, engine.alive) == (True, False)
    with pytest.raises(EngineError, match="engine must be open"):
        await ask(engine)


async def test_the_key_is_told_to_nobody_else(
    theirs: OtherServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = await make(retries=1)
    said = [repr(engine.info), repr(Access("http://x", KEY))]
    theirs.answers = [
        failed(400, {"error": {"message": f"you sent {KEY}"}}),
        failed(401, {"error": {"message": f"wrong key {KEY}"}}),
        failed(500, f"dump: authorization: Bearer {KEY}"),
        failed(500, f"dump: authorization: Bearer {KEY}"),
        lambda body: streamed(end=f'data: {{"error": {{"message": "{KEY}"}}}}\n\n'),
        lambda body: streamed(end=f"data: {KEY}\n\n"),
    ]
    for _ in range(5):
        with pytest.raises(EvenhandError) as caught:
            await ask(engine)
        logging.getLogger("evenhand").error("failed", exc_info=caught.value)
        said += [caught.value.message, str(caught.value), repr(caught.value)]
    assert len(theirs.answers) == 1
    assert not any(KEY in each for each in said)
    assert KEY not in caplog.text
