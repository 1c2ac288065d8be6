"""A chat without end over HTTP: far beyond the context, each turn reads what is new alone."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from asking import Client, MakeEngine
from sequences import Widths

CHAT = "/v1/chat/completions"
STAGES = [{"stage": "lm-infinite", "first": 4, "window": 64}]
NEAR = 2e-4

Messages = list[dict[str, str]]


def asked(messages: Messages, **more: Any) -> dict[str, Any]:
    return {
        "messages": messages,
        "stages": STAGES,
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
        **more,
    }


async def post(http: httpx.AsyncClient, messages: Messages, **more: Any) -> dict[str, Any]:
    key = more.pop("key", None)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = await http.post(CHAT, json=asked(messages, **more), headers=headers)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def cached(reply: dict[str, Any]) -> int:
    return int(reply["usage"]["prompt_tokens_details"]["cached_tokens"])


def text(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


def scores(reply: dict[str, Any]) -> list[tuple[str, float]]:
    found = reply["choices"][0]["logprobs"]["content"]
    return [(each["token"], each["logprob"]) for each in found]


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that two replies are one but for rounding, and for what was read before."""
    pairs = list(zip(scores(one), scores(other), strict=True))
    for (token, logprob), (found, near) in pairs:
        assert token == found
        assert logprob == pytest.approx(near, abs=NEAR)
    assert pairs and text(one) == text(other)
    assert one["usage"]["prompt_tokens"] == other["usage"]["prompt_tokens"]
    assert one["evenhand"]["notes"] == other["evenhand"]["notes"]


def talk(turn: int) -> dict[str, str]:
    return {"role": "user", "content": f"The {turn} dogs jump over {turn * 7} foxes, yes or no?"}


async def test_thirty_turns_say_what_is_said_without_a_sequence(
    client: Client, make_engine: MakeEngine
) -> None:
    http, plain = await client(make_engine()), await client(make_engine(), fim_sessions=0)
    messages, before = [talk(0)], 0
    for turn in range(1, 31):
        reply = await post(http, messages, prompt_cache_key="mine" if turn > 15 else None)
        if turn == 16:  # the first under its key
            assert cached(reply) == 0
        else:  # the opening of an answer may be one token with what it says
            assert before - 2 <= cached(reply) < reply["usage"]["prompt_tokens"]
        if turn % 3 == 0 or turn < 5:
            fresh = await post(plain, messages)
            same(reply, fresh)
            assert cached(fresh) == 0
        before = reply["usage"]["prompt_tokens"]
        messages += [{"role": "assistant", "content": text(reply)}, talk(turn)]
    assert before > 1000  # the model has learned 256
    assert reply["evenhand"]["notes"]["lm-infinite"]["out_of_sight"] > 900


async def test_an_answer_that_is_changed_costs_its_own_length(
    client: Client, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    widths = Widths(engine)
    http, plain = await client(engine), await client(make_engine(), fim_sessions=0)
    messages: Messages = [talk(turn) for turn in range(20)]
    first = await post(http, messages)
    messages += [{"role": "assistant", "content": "Something else."}, talk(21)]
    del widths.seen[:]
    reply = await post(http, messages)
    assert widths.seen[0] == reply["usage"]["prompt_tokens"] - cached(reply) < 60
    assert cached(reply) >= first["usage"]["prompt_tokens"] - 2
    same(reply, await post(plain, messages))


async def test_two_keys_and_two_names_never_share(client: Client, make_engine: MakeEngine) -> None:
    http = await client(make_engine(), api_keys="one,two")
    messages = [talk(0)]
    asking: list[dict[str, Any]] = [
        {"key": "one"},
        {"key": "two"},
        {"key": "one", "prompt_cache_key": "a"},
        {"key": "one", "user": "b"},
    ]
    for each in asking:
        assert cached(await post(http, messages, **each)) == 0
    for each in asking:
        assert cached(await post(http, messages, **each)) > 0


async def test_what_is_asked_at_once_is_answered_at_once(
    client: Client, make_engine: MakeEngine
) -> None:
    http, plain = await client(make_engine()), await client(make_engine(), fim_sessions=0)
    messages = [talk(turn) for turn in range(8)]
    await post(http, messages)
    more = [[*messages, talk(100 + turn)] for turn in range(6)]
    for reply, each in zip(
        await asyncio.gather(*(post(http, each) for each in more)), more, strict=True
    ):
        same(reply, await post(plain, each))


async def test_of_too_many_the_least_used_goes_and_is_read_anew(
    client: Client, make_engine: MakeEngine
) -> None:
    http = await client(make_engine(), fim_sessions=2)
    for name in ("a", "b", "c"):
        await post(http, [talk(0)], prompt_cache_key=name)
    assert cached(await post(http, [talk(0)], prompt_cache_key="c")) > 0
    assert cached(await post(http, [talk(0)], prompt_cache_key="a")) == 0
    small = await client(make_engine(), fim_session_bytes=1000)
    for _ in range(2):
        assert cached(await post(small, [talk(0)])) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2, "temperature": 1.0},
        {"deterministic": True},
    ],
)
async def test_some_requests_are_answered_as_ever(
    client: Client, make_engine: MakeEngine, more: dict[str, Any]
) -> None:
    http = await client(make_engine())
    for _ in range(2):
        reply = await http.post(CHAT, json=asked([talk(0)], **more))
        assert reply.status_code == 200
        assert '"cached_tokens":0' in reply.text
    assert cached(await post(http, [talk(0)])) == 0


async def test_what_is_streamed_goes_on_too(client: Client, make_engine: MakeEngine) -> None:
    http = await client(make_engine())
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    for again in (False, True):
        reply = await http.post(CHAT, json=asked([talk(0)], **streamed))
        assert ('"cached_tokens":0' in reply.text) != again


async def test_a_sequence_that_fails_while_it_answers_is_dropped(
    client: Client, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    widths, http = Widths(engine), await client(engine)
    await post(http, [talk(0)])
    widths.fail = True
    assert (await http.post(CHAT, json=asked([talk(0)]))).status_code == 500
    widths.fail = False
    assert cached(await post(http, [talk(0)])) == 0
    assert cached(await post(http, [talk(0)])) > 0


async def test_without_the_stage_a_long_prompt_is_told_of_it(
    client: Client, make_engine: MakeEngine
) -> None:
    http = await client(make_engine())
    for times in (60, 20_000):
        messages = [talk(0), {"role": "user", "content": "The quick brown fox. " * times}]
        reply = await http.post(CHAT, json={"messages": messages, "max_tokens": 4})
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "add the stage 'lm-infinite'" in error["message"]
    found = await post(http, messages[:1], stages=[{"stage": "lm-infinite"}], max_tokens=None)
    assert found["usage"]["completion_tokens"] <= 256  # what the model has learned


async def test_completions_go_on_too(client: Client, make_engine: MakeEngine) -> None:
    http = await client(make_engine())
    body: dict[str, Any] = {
        "prompt": "The quick brown fox " * 40,
        "stages": STAGES,
        "max_tokens": 8,
    }
    seen = []
    for more in ("", "jumps over ", "jumps over the lazy dog. "):
        reply = await http.post(
            "/v1/completions", json={**body, "prompt": f"{body['prompt']}{more}"}
        )
        seen.append(cached(reply.json()))
    assert seen[0] == 0 < seen[1] <= seen[2]
