"""Many streams at once: all go on, one more is told to come back, a closed one stops its work."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from live import eventually
from openai import AsyncOpenAI

from server.engines.base import Engine
from server.engines.hf import HfEngine

LONG: dict[str, Any] = {
    "model": "tiny",
    "prompt": "Rome",
    "max_tokens": 4000,
    "extra_body": {"ignore_eos": True},
}


def at_work(engine: Engine) -> int:
    """Return how many sequences the worker goes through in turn."""
    assert isinstance(engine, HfEngine)
    return len(engine._worker._queue)


async def idle(engine: Engine) -> None:
    """Wait until the worker has nothing left."""
    await asyncio.to_thread(eventually, lambda: at_work(engine) == 0)


async def test_sixteen_streams_go_on_and_the_next_is_told_to_come_back(
    address: str, engine: Engine
) -> None:
    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        streams = [await client.completions.create(**LONG, stream=True) for _ in range(16)]
        for _ in range(3):  # one chunk of each, in turn: none waits for another to finish
            async with asyncio.timeout(60):
                for stream in streams:
                    assert (await anext(stream)).choices[0].finish_reason is None
        with pytest.raises(openai.RateLimitError) as caught:
            await client.completions.create(**LONG, stream=True)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.type == "rate_limit_error"

        await streams.pop().close()
        await asyncio.to_thread(eventually, lambda: at_work(engine) == 15)
        again = await client.completions.create(model="tiny", prompt="Rome", max_tokens=2)
        assert again.choices[0].finish_reason == "length"
        for stream in streams:
            await stream.close()
    await idle(engine)


async def test_a_client_that_hangs_up_on_a_whole_answer_stops_its_work(
    address: str, engine: Engine
) -> None:
    body = {"prompt": "Rome", "max_tokens": 4000, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=address, timeout=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/completions", json=body)
    await idle(engine)


async def test_a_client_that_hangs_up_in_its_body_does_no_harm(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    for _ in range(3):
        _, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(head + b'content-length: 500\r\n\r\n{"prompt":')
        await writer.drain()
        writer.close()
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/health")).status_code == 200
