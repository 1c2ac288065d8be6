"""Completions and chat as a client sees them, around a scripted engine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Send

from server.app import create_app
from server.chunk import Chunk
from server.engines.scripted import Answer, Scripted
from server.errors import EngineError
from server.job import Work
from server.protocol import sse
from server.settings import Settings

Client = Callable[..., Awaitable[httpx.AsyncClient]]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "one two three"}]


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    """Return a stream's objects; it must end with [DONE]."""
    *said, done, rest = reply.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in said]


async def test_a_completion_has_every_field_a_client_reads(client: Client) -> None:
    http = await client()
    reply = (await http.post(COMPLETIONS, json={"prompt": "a b", "foo": 1})).json()
    assert reply["id"].startswith("cmpl-")
    assert reply["object"] == "text_completion"
    assert reply["model"] == "pocket"
    assert reply["system_fingerprint"].startswith("fp_")
    assert reply["choices"] == [
        {
            "index": 0,
            "text": "a b",
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert reply["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 2,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert reply["evenhand"] == {
        "stages": [],
        "notes": {},
        "warnings": ["field 'foo' is not known and was ignored"],
    }


async def test_choices_are_in_prompt_major_order(client: Client) -> None:
    http = await client()
    body = {"prompt": ["a", "b"], "n": 2}
    choices = (await http.post(COMPLETIONS, json=body)).json()["choices"]
    assert [(each["index"], each["text"]) for each in choices] == [
        (0, "a"),
        (1, "a"),
        (2, "b"),
        (3, "b"),
    ]


async def test_sixteen_tokens_are_the_default_of_completions_alone(client: Client) -> None:
    http, words = await client(), " ".join("abcdefghijklmnopqrst")
    completion = (await http.post(COMPLETIONS, json={"prompt": words})).json()
    messages = [{"role": "user", "content": words}]
    chat = (await http.post(CHAT, json={"messages": messages})).json()
    assert completion["usage"]["completion_tokens"] == 16
    assert completion["choices"][0]["finish_reason"] == "length"
    assert chat["choices"][0]["message"]["content"] == words
    assert chat["choices"][0]["finish_reason"] == "stop"


async def test_a_streamed_completion_begins_with_text(client: Client) -> None:
    http = await client()
    reply = await http.post(COMPLETIONS, json={"prompt": "a b", "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    first, second, last = events(reply)
    assert first["choices"][0]["text"] == "a"
    assert second["choices"][0]["text"] == " b"
    assert first["choices"][0]["finish_reason"] is None
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["evenhand"] == {"stages": [], "notes": {}}
    assert not any("evenhand" in each or "usage" in each for each in (first, second))
    assert len({each["id"] for each in (first, second, last)}) == 1


async def test_a_streamed_chat_begins_with_the_role(client: Client) -> None:
    http = await client()
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    first, *middle, last, usage = events(await http.post(CHAT, json=body))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(each["choices"][0]["delta"]["content"] for each in middle) == "one two three"
    assert last["choices"][0] | {"index": 0} == last["choices"][0]
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 6
    assert "evenhand" in usage
    assert "evenhand" not in last
    assert {each["usage"] for each in (first, *middle, last)} == {None}


async def test_usage_can_be_told_all_along(client: Client) -> None:
    http = await client()
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "a b", "stream": True, "stream_options": options}
    said = [each["usage"] for each in events(await http.post(COMPLETIONS, json=body))]
    assert [usage["completion_tokens"] for usage in said] == [1, 2, 2, 2]


async def test_the_stages_that_ran_are_shown(client: Client) -> None:
    engine = Scripted([Answer("yes")] * 3, abilities=("text", "logprobs", "attention"))
    http, stage = await client(engine), {"stage": "pine"}
    by_field = {"prompt": "Q", "documents": ["x", "y"], "stages": [stage]}
    by_name = {"prompt": "Q", "documents": ["x", "y"], "model": "pocket+pine"}
    for body in (by_field, by_name, by_field | {"stream": True}):
        reply = await http.post(COMPLETIONS, json=body)
        said = events(reply)[-1] if "stream" in body else reply.json()
        assert said["evenhand"]["stages"] == [stage]
        assert said["model"] == "pocket"
    assert all(work.reading is not None for work in engine.works)


@pytest.mark.parametrize(
    ("asked", "runs"), [({}, False), (None, False), (False, False), (True, True)]
)
async def test_deterministic_is_asked_for(client: Client, asked: object, runs: bool) -> None:
    engine = Scripted([Answer("yes")] * 2)
    http = await client(engine)
    field = {} if asked == {} else {"deterministic": asked}
    chat = {"messages": [{"role": "user", "content": "Q"}]}
    for path, body in ((COMPLETIONS, {"prompt": "Q"}), (CHAT, chat)):
        assert (await http.post(path, json={**body, **field})).status_code == 200
    assert [work.deterministic for work in engine.works] == [runs, runs]


@pytest.mark.parametrize(("asked", "runs"), [(None, True), (False, False)])
async def test_order_free_requests_are_deterministic(
    client: Client, asked: bool | None, runs: bool
) -> None:
    engine = Scripted([Answer("yes")], abilities=("text", "logprobs", "attention"))
    http = await client(engine)
    body = {"prompt": "Q", "documents": ["x"], "stages": [{"stage": "pine"}]}
    reply = await http.post(COMPLETIONS, json={**body, "deterministic": asked})
    assert reply.status_code == 200
    assert [work.deterministic for work in engine.works] == [runs]


async def test_stages_of_the_name_come_after_those_of_the_body(client: Client) -> None:
    http = await client()
    body = {"prompt": "Q", "documents": ["x"], "stages": [{"stage": "pine"}]}
    reply = await http.post(COMPLETIONS, json=body | {"model": "pocket+swap"})
    assert reply.status_code == 400
    assert "'swap' must come before 'pine'" in reply.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_is_a_plain_400(client: Client, stream: bool) -> None:
    http = await client()
    body = {"prompt": "Q", "documents": ["x"], "stages": [{"stage": "pine"}], "stream": stream}
    reply = await http.post(COMPLETIONS, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "stages"


class Failing(Scripted):
    """Says a word, then fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__([])
        self.error = error

    async def _stream(self, work: Work) -> AsyncIterator[Chunk]:
        yield Chunk(0, "a")
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [(EngineError("the engine cannot go on"), "cannot go on"), (KeyError("secret"), "unexpected")],
)
async def test_a_failure_in_mid_stream_is_an_event(
    client: Client, error: Exception, said: str
) -> None:
    http = await client(Failing(error))
    first, failure = events(await http.post(COMPLETIONS, json={"prompt": "x", "stream": True}))
    assert first["choices"][0]["text"] == "a"
    assert said in failure["error"]["message"]
    assert "secret" not in failure["error"]["message"]
    whole = await http.post(COMPLETIONS, json={"prompt": "x"})
    assert whole.status_code == 500
    assert said in whole.json()["error"]["message"]
    assert "secret" not in whole.text


async def test_places_are_given_back_whatever_happens(client: Client) -> None:
    http = await client(Failing(EngineError("no")), queue_limit=1)
    for stream in (True, False):
        for _ in range(3):
            reply = await http.post(COMPLETIONS, json={"prompt": "x", "stream": stream})
            assert reply.status_code != 429
    refused = await http.post(COMPLETIONS, json={"prompt": "x", "model": "gpt"})
    assert refused.status_code == 404


class Silent(Scripted):
    """Says nothing, neither whether it takes work nor, where it does, what it answers."""

    def __init__(self, takes: bool) -> None:
        super().__init__([])
        self._takes = takes
        self.asked = asyncio.Event()

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        if self._takes:
            return self._nothing()
        await self._wait_for_ever()
        raise AssertionError

    async def _nothing(self) -> AsyncIterator[Chunk]:
        await self._wait_for_ever()
        yield Chunk(0)

    async def _wait_for_ever(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def hang_up(app: FastAPI, stream: bool, leave: asyncio.Event, send: Send) -> None:
    """Ask for a completion, and leave when told."""
    body = json.dumps({"prompt": "x", "stream": stream}).encode()
    coming = iter([{"type": "http.request", "body": body}])

    async def receive() -> dict[str, Any]:
        if (message := next(coming, None)) is not None:
            return message
        await leave.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": COMPLETIONS, "headers": []}
    async with asyncio.timeout(5):
        await app({**scope, "query_string": b""}, receive, send)


@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_hang_up_before_the_first_chunk_leave_no_place_taken(
    takes: bool, stream: bool
) -> None:
    engine = Silent(takes)
    app = create_app(Settings(), engine)

    async def send(message: Message) -> None:
        assert message.get("status") in (None, 200, 499)

    async with app.router.lifespan_context(app):
        for _ in range(app.state.settings.queue_limit + 1):
            engine.asked.clear()
            await hang_up(app, stream, engine.asked, send)
            assert engine.asked.is_set()
            assert app.state.admission.running == 0


async def test_silence_in_a_stream_lasts_as_long_as_the_operator_says() -> None:
    app, heard = create_app(Settings(keep_alive_seconds=0.02), Silent(takes=True)), asyncio.Event()

    async def send(message: Message) -> None:
        if message.get("body") == sse.KEEP_ALIVE:
            heard.set()

    async with app.router.lifespan_context(app):
        await hang_up(app, True, heard, send)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": ["x"] * 257}, "prompts must number at most 256, got 257"),
        ({"prompt": ["x"] * 100, "n": 11}, "prompts times n must be at most 1024, got 1100"),
        ({"prompt": "x", "documents": ["d"] * 10_000}, "documents must number at most 1000"),
    ],
)
async def test_a_request_has_bounds(client: Client, body: dict[str, Any], said: str) -> None:
    http = await client()
    reply = await http.post(COMPLETIONS, json=body)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]
