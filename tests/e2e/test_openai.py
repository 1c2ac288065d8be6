"""OpenAI's own client against the real server, engine and a tiny model."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from openai.types.shared_params import ResponseFormatJSONSchema

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who lives in Rome?"}]
DOCUMENTS = [{"title": f"Note {place}", "text": f"fact number {place}"} for place in range(5)]


def test_a_chat_is_the_same_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": MESSAGES,
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    pieces = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert pieces[0].choices[0].delta.role == "assistant"
    said = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert "".join(said) == whole.choices[0].message.content
    assert pieces[-1].usage == whole.usage
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.system_fingerprint == pieces[0].system_fingerprint
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 12


def test_a_completion_is_the_same_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "prompt": "Rome is",
        "max_tokens": 12,
        "temperature": 0,
        "n": 2,
    }
    whole = client.completions.create(**asked)
    texts = {0: "", 1: ""}
    for piece in client.completions.create(**asked, stream=True):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert [choice.text for choice in whole.choices] == [texts[0], texts[1]]
    assert texts[0] == texts[1]


async def test_the_asynchronous_client_reads_streams_too(address: str) -> None:
    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=5, stream=True
        )
        pieces = [piece async for piece in stream]
        assert pieces[-1].choices[0].finish_reason in ("stop", "length")
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


def test_equal_seeds_give_equal_answers(client: OpenAI) -> None:
    def ask(seed: int) -> str | None:
        reply = client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=20, temperature=1, seed=seed
        )
        return reply.choices[0].message.content

    assert ask(5) == ask(5)
    assert ask(5) != ask(6)


def test_prompt_scoring_as_evaluations_do_it(client: OpenAI) -> None:
    prompts = [[20, 30, 40, 50], [21, 31, 41]]
    reply = client.completions.create(
        model="tiny", prompt=prompts, echo=True, max_tokens=1, logprobs=1, temperature=0, seed=1
    )
    for ids, choice in zip(prompts, reply.choices, strict=True):
        scores = choice.logprobs
        assert scores is not None
        tokens = scores.tokens or []
        values: list[Any] = scores.token_logprobs or []  # the first is null, whatever its type says
        tops, offsets = scores.top_logprobs or [], scores.text_offset or []
        assert {len(tokens), len(values), len(tops), len(offsets)} == {len(ids) + 1}
        assert values[0] is None
        for token, value, top in list(zip(tokens, values, tops, strict=True))[1:]:
            assert top[token] == value
            assert value <= max(top.values())
        for token, offset in zip(tokens, offsets, strict=True):
            assert choice.text[offset:].startswith(token)


def test_echo_of_text_gives_the_text_back(client: OpenAI) -> None:
    reply = client.completions.create(
        model="tiny", prompt="Rome is é", echo=True, max_tokens=0, logprobs=0
    )
    scores = reply.choices[0].logprobs
    assert reply.choices[0].text == "Rome is é"
    assert scores is not None and scores.text_offset is not None
    assert scores.text_offset[:2] == [0, 0]  # the first token is not in the text


def test_chat_logprobs(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=3, temperature=0, logprobs=True, top_logprobs=20
    )
    scores = reply.choices[0].logprobs
    assert scores is not None
    assert reply.usage is not None
    assert len(scores.content or ()) == reply.usage.completion_tokens
    for token in scores.content or ():
        assert len(token.top_logprobs) == 20
        assert token.logprob == token.top_logprobs[0].logprob


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_documents_in_any_order_give_the_same_bytes(address: str, path: str) -> None:
    asked = {"model": "tiny+pine", "max_tokens": 8, "temperature": 0}
    asked |= {"messages": MESSAGES} if path.startswith("chat") else {"prompt": "Who?"}
    asked |= {"logprobs": True, "top_logprobs": 5} if "messages" in asked else {"logprobs": 5}
    replies = []
    for documents in (DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[2:] + DOCUMENTS[:2]):
        body = asked | {"documents": documents}
        reply = httpx.post(f"{address}/v1/{path}", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        assert reply.json()["evenhand"]["stages"] == [{"stage": "pine"}]
        replies.append(reply.json()["choices"])
    assert replies[0] == replies[1] == replies[2]


def test_streamed_answers_are_the_same_in_any_order_too(address: str) -> None:
    documents = [{"title": f"Note {place}", "text": "fact " * (place + 1)} for place in range(10)]
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    asked |= {"stages": [{"stage": "pine"}], "stream": True, "logprobs": True}
    streams = []
    for shift in (0, 3, 7):
        body = asked | {"documents": documents[shift:] + documents[:shift]}
        lines = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).text.split("\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        streams.append([event["choices"] for event in events])
    assert len(streams[0]) > 2
    assert streams[0] == streams[1] == streams[2]


def test_a_schema_is_followed_and_reports_what_it_cost(client: OpenAI) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    schema |= {"required": ["sure"], "additionalProperties": False}
    described: ResponseFormatJSONSchema = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
    reply = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=200,
        temperature=0,
        response_format=described,
    )
    assert json.loads(reply.choices[0].message.content or "")["sure"] in (True, False)
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            response_format={"type": "json_schema"},  # type: ignore
        )


def test_plain_documents_do_differ_with_the_order(address: str) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 1, "temperature": 0, "logprobs": True}
    replies = [
        httpx.post(
            f"{address}/v1/chat/completions", json=asked | {"documents": documents}, timeout=60
        ).json()["choices"]
        for documents in (DOCUMENTS, DOCUMENTS[::-1])
    ]
    assert replies[0] != replies[1]


def test_errors_reach_the_client_with_code_and_message(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096") as caught:
        client.completions.create(model="tiny", prompt="Rome " * 9000)
    assert caught.value.code == "context_length_exceeded"
    assert "context_length_exceeded" in caught.value.message
    with pytest.raises(openai.BadRequestError, match="temperature must be"):
        client.completions.create(model="tiny", prompt="x", temperature=9)
