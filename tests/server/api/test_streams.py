"""A stream on one connection: over a real server, with the embedded model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from live import serving
from websockets.asyncio.client import ClientConnection, connect

from server.app import create_app
from server.engines.hf.engine import HfEngine
from server.engines.hf.groups import HfGroups
from server.settings import Settings

OPEN = {"messages": [{"role": "user", "content": "Say it again: "}], "temperature": 0}
TEXT = "the cat sat on the mat and the dog sat on the log"
Frame = dict[str, Any]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[HfGroups]:
    """Return every sequence that is opened meanwhile."""
    made: list[HfGroups] = []
    first = HfEngine.open_groups

    async def watched(engine: HfEngine, *given: Any) -> HfGroups:
        made.append(await first(engine, *given))
        return made[-1]

    monkeypatch.setattr(HfEngine, "open_groups", watched)
    return made


@pytest.fixture
def address(engine: HfEngine) -> Iterator[str]:
    app = create_app(Settings(stream_idle_seconds=1.0), engine)
    with serving(app) as found:
        yield found


@asynccontextmanager
async def talking(address: str, key: str | None = None) -> AsyncIterator[ClientConnection]:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    url = address.replace("http://", "ws://") + "/v1/streams"
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        yield socket


async def send(socket: ClientConnection, kind: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": kind, **fields}))


async def hear(socket: ClientConnection) -> Frame:
    async with asyncio.timeout(10):
        frame: Frame = json.loads(await socket.recv())
    return frame


async def rest(socket: ClientConnection) -> list[Frame]:
    """Return all frames until the server closes."""
    async with asyncio.timeout(10):
        return [json.loads(frame) async for frame in socket]


async def gone(opened: list[HfGroups]) -> None:
    async with asyncio.timeout(5):
        while any(each.nbytes or each.usage for each in opened):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_stream_from_its_opening_to_its_end(address: str) -> None:
    stages = [{"stage": "group-positions", "k": 3}]
    async with talking(address) as socket:
        await send(socket, "open", **OPEN, stages=stages, max_tokens=12, oddity=1)
        told = await hear(socket)
        assert told["type"] == "opened"
        assert told["stages"] == stages
        assert "oddity" in told["warnings"][0]
        for word in TEXT.split():
            await send(socket, "source.append", text=word + " ")
        await send(socket, "source.end")
        *deltas, usage, done = await rest(socket)
    assert {each["type"] for each in deltas} <= {"target.delta"}
    read = [each["source_words_read"] for each in deltas]
    assert read == sorted(read)
    assert usage["type"] == "usage"
    assert usage["usage"]["target_tokens"] <= 12
    assert done["type"] == "done"
    assert done["finish_reason"] in {"stop", "length"}
    assert set(done["latency"]) >= {"average_lagging", "length_ratio"}


async def test_the_target_comes_while_the_source_is_open(
    address: str, opened: list[HfGroups]
) -> None:
    stages = [{"stage": "group-positions", "k": 2, "hold": False}]
    async with talking(address) as socket:
        await send(socket, "open", **OPEN, stages=stages, ignore_eos=True)
        await hear(socket)
        await send(socket, "source.append", text="the cat sat ")
        assert (await hear(socket))["type"] == "target.delta"
        await send(socket, "cancel")
        *_, done = await rest(socket)
    assert done == {"type": "done", "finish_reason": "cancelled"}
    await gone(opened)


async def test_who_drops_the_socket_leaves_nothing(address: str, opened: list[HfGroups]) -> None:
    stages = [{"stage": "group-positions", "policy": "all"}]
    for _ in range(20):
        async with talking(address) as socket:
            await send(socket, "open", **OPEN, stages=stages, ignore_eos=True)
            await hear(socket)
            await send(socket, "source.append", text=TEXT)
            await send(socket, "source.end")
            await hear(socket)
            socket.transport.abort()
    await gone(opened)
    assert len(opened) == 20


async def test_a_source_that_stays_away(address: str, opened: list[HfGroups]) -> None:
    async with talking(address) as socket:
        await send(socket, "open", **OPEN)
        await hear(socket)
        [error] = await rest(socket)
    assert error["type"] == "error"
    assert "within 1 seconds" in error["error"]["message"]
    await gone(opened)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (["nonsense"], "must be JSON"),
        ([{"type": "dance"}], "must be of type open"),
        ([{"type": "source.end"}], "first frame must be of type open"),
        ([{"type": "open"}], "messages must be given"),
        ([{"type": "open", **OPEN, "n": 2}], "n cannot go with a stream"),
        ([{"type": "open", **OPEN, "stages": [{"stage": "swap"}]}], "'group-positions' alone"),
        ([{"type": "open", **OPEN, "stages": [{"stage": "group-positions", "k": 1}]}], "early"),
        ([{"type": "open", **OPEN}, {"type": "open", **OPEN}], "opened once"),
        (
            [{"type": "open", **OPEN}, {"type": "source.end"},
             {"type": "source.append", "text": "x"}, {"type": "source.end"}],
            "behind its end",
        ),
    ],
)  # fmt: skip
async def test_frames_that_are_wrong(address: str, frames: list[Any], said: str) -> None:
    async with talking(address) as socket:
        for frame in frames:
            await socket.send(frame if isinstance(frame, str) else json.dumps(frame))
        heard = await rest(socket)
    assert said in [each for each in heard if each["type"] == "error"][-1]["error"]["message"]


async def test_outside_a_stream_the_stage_is_refused(address: str) -> None:
    body = {**OPEN, "stages": [{"stage": "group-positions"}]}
    async with httpx.AsyncClient(base_url=address) as http:
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "/v1/streams" in answer.json()["error"]["message"]


async def test_a_key_is_asked_for(engine: HfEngine) -> None:
    with serving(create_app(Settings(api_keys=("secret",)), engine)) as found:
        with pytest.raises(Exception, match="rejected"):
            async with talking(found):
                pass
        async with talking(found, "secret") as socket:
            await send(socket, "open", **OPEN)
            assert (await hear(socket))["type"] == "opened"
