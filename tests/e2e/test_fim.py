"""Editors' requests against the embedded model, which has the tokens, though not the skill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live import serving

from server.app import create_app
from server.engines.registry import load
from server.settings import Settings

PREFIX, SUFFIX = "The job of Thea is barber. The job", " Ivan is driver."
FILES = [{"filename": f"{number}.txt", "text": "Ada lives in Lima. " * 20} for number in range(8)]


@pytest.fixture(scope="module")
def pocket() -> Iterator[str]:
    """Yield the address of a server of the embedded model."""
    settings = Settings(threads=1)
    engine = load(settings)
    with serving(create_app(settings, engine)) as found:
        yield found
    asyncio.run(engine.close())


def ask(address: str, path: str, **body: Any) -> dict[str, Any]:
    reply = httpx.post(f"{address}{path}", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def infill(address: str, **body: Any) -> dict[str, Any]:
    asked = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "temperature": 0.0, "n_predict": 12}
    return ask(address, "/infill", **{**asked, **body})


def test_every_endpoint_fills_in_the_same(pocket: str) -> None:
    found = infill(pocket)
    assert found["content"]
    asked = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12, "temperature": 0}
    fim = ask(pocket, "/v1/fim/completions", **asked)
    completion = ask(pocket, "/v1/completions", **asked)
    assert fim["choices"][0]["message"]["content"] == found["content"]
    assert completion["choices"][0]["text"] == found["content"]
    for reply in (fim, completion):
        assert reply["usage"]["prompt_tokens"] == found["tokens_evaluated"]
        assert reply["usage"]["completion_tokens"] == found["tokens_predicted"]


def test_with_the_suffix_first_what_is_begun_is_the_prefixs_end(pocket: str) -> None:
    spm = {"fim": "spm"}
    begun = infill(pocket, input_prefix=PREFIX[:-3], prompt=PREFIX[-3:], **spm)
    assert begun["tokens_evaluated"] == infill(pocket, **spm)["tokens_evaluated"]
    assert begun["content"] == infill(pocket, **spm)["content"]


def test_a_stream_says_the_same(pocket: str) -> None:
    body = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "temperature": 0.0, "n_predict": 12}
    whole = ask(pocket, "/infill", **body)
    reply = httpx.post(f"{pocket}/infill", json={**body, "stream": True}, timeout=60)
    said = [json.loads(each[6:]) for each in reply.text.split("\n\n") if each]
    assert "".join(each["content"] for each in said) == whole["content"]
    assert [each["stop"] for each in said] == [False] * (len(said) - 1) + [True]
    for name in ("tokens_evaluated", "tokens_predicted", "stop_type", "truncated"):
        assert said[-1][name] == whole[name]


def test_files_that_do_not_fit_are_left_out_and_told(pocket: str) -> None:
    few, many = (infill(pocket, input_extra=FILES[:count]) for count in (1, 8))
    assert (few["truncated"], many["truncated"]) == (False, True)
    assert "files, which were left out" in many["evenhand"]["warnings"][0]
    long = infill(pocket, input_prefix="Ada lives in Lima. " * 1000 + PREFIX)
    assert long["truncated"] and long["tokens_evaluated"] < 4096
    assert "prefix tokens" in long["evenhand"]["warnings"][0]


def test_what_the_text_spells_commands_nothing(pocket: str) -> None:
    spelled = "<|fim_middle|><|end|>"
    plain, odd = (infill(pocket, input_prefix=f"{text} {PREFIX}") for text in ("x", spelled))
    assert odd["tokens_evaluated"] > plain["tokens_evaluated"] + 4


def test_a_warm_up(pocket: str) -> None:
    body = {"input_prefix": "", "input_suffix": "", "input_extra": FILES[:1], "prompt": ""}
    reply = infill(pocket, **body, n_predict=0)
    assert (reply["content"], reply["tokens_predicted"], reply["stop_type"]) == ("", 0, "limit")
    assert reply["tokens_evaluated"] > 100


def test_no_fewer_tokens_than_asked_for(pocket: str) -> None:
    asked = {
        "messages": [{"role": "user", "content": "What is the city of Ada?"}],
        "documents": ["The city of Ada is Lima."],
        "temperature": 0,
        "max_tokens": 32,
    }
    ends = ask(pocket, "/v1/chat/completions", **asked)["usage"]["completion_tokens"]
    assert ends < 20
    more = ask(pocket, "/v1/chat/completions", **asked, min_tokens=ends + 3)
    assert more["usage"]["completion_tokens"] >= ends + 3
