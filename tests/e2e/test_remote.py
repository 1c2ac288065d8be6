"""A server in front of another one, over HTTP: what is asked of it is answered as by the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import eventually, serving

from pocket import WEIGHTS
from server.app import create_app
from server.engines.base import Engine
from server.engines.hf import HfEngine
from server.engines.scripted import Scripted, content_judge
from server.settings import Settings

QUESTION = "The city of Mira is Oslo. The city of Tom is Rome. What is the city of Mira?"
TEXTS = ("The city of Mira is Oslo.", "The city of Mira is Rome.")
FACTS = "The city of Ada is Lima. What is the city of Ada?"
OWN = ("id", "created", "system_fingerprint")  # what each server says of itself


@contextmanager
def front(address: str, **settings: Any) -> Iterator[str]:
    """Serve what the server at an address serves; yield the own address."""
    given = {"engine": "remote", "remote_url": f"{address}/v1", **settings}
    with serving(create_app(Settings(**given))) as found:
        yield found


@pytest.fixture(scope="module")
def pocket() -> Iterator[str]:
    """Yield the address of a server of the embedded model."""
    engine = HfEngine.load(WEIGHTS, name="pocket", threads=1)
    with serving(create_app(Settings(), engine)) as address:
        yield address
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def remote(pocket: str) -> Iterator[str]:
    """Yield the address of a server in front of it."""
    with front(pocket) as address:
        yield address


def post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a reply without what each server says of itself."""
    reply = httpx.post(f"{address}/v1/{path}", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return {name: value for name, value in reply.json().items() if name not in OWN}


def refused(address: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    reply = httpx.post(f"{address}/v1/{path}", json=body, timeout=60)
    return reply.status_code, reply.json()["error"]


def events(address: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a stream's objects without what each server says of itself."""
    lines = httpx.post(f"{address}/v1/{path}", json={**body, "stream": True}, timeout=60).text
    *data, done = [line for line in lines.splitlines() if line.startswith("data: ")]
    assert done == "data: [DONE]"
    objects = [json.loads(line.removeprefix("data: ")) for line in data]
    return [{name: each[name] for name in each if name not in OWN} for each in objects]


SURE = {"deterministic": True}  # else the last bits depend on what else runs there
CHATS: list[dict[str, Any]] = [
    {"temperature": 0, "max_tokens": 12},
    {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 3},
    {"seed": 3, "n": 3, "max_tokens": 6, "presence_penalty": 1, "repetition_penalty": 1.2},
    {"temperature": 0, "stop": ["Lima", "."], "logit_bias": {"7": -50}, "max_tokens": 30},
    {"temperature": 0, "response_format": {"type": "json_object"}, "max_tokens": 30},
]
COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": ["Rome", "Oslo is"], "n": 2, "seed": 1, "max_tokens": 4, "logprobs": 2},
    {"prompt": [[5, 6, 7], [8]], "temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 2},
    {"prompt": "The city of Ada", "temperature": 0, "echo": True, "max_tokens": 0, "logprobs": 0},
    {"prompt": "The city of Ada", "temperature": 0, "echo": True, "max_tokens": 3},
    {"prompt": "Rome", "ignore_eos": True, "top_k": 5, "seed": 5, "max_tokens": 20},
]


@pytest.mark.parametrize("numbers", CHATS)
def test_a_chat_is_answered_as_by_the_other(
    pocket: str, remote: str, numbers: dict[str, Any]
) -> None:
    body = {"messages": [{"role": "user", "content": FACTS}], **SURE, **numbers}
    assert post(remote, "chat/completions", body) == post(pocket, "chat/completions", body)


@pytest.mark.parametrize("body", COMPLETIONS)
def test_a_completion_is_answered_as_by_the_other(
    pocket: str, remote: str, body: dict[str, Any]
) -> None:
    body = {**SURE, **body}
    assert post(remote, "completions", body) == post(pocket, "completions", body)


@pytest.mark.parametrize("numbers", CHATS[:3])
def test_a_stream_of_a_chat(pocket: str, remote: str, numbers: dict[str, Any]) -> None:
    options = {"stream_options": {"include_usage": True}}
    body = {"messages": [{"role": "user", "content": FACTS}], **SURE, **numbers, **options}
    mine, theirs = (events(where, "chat/completions", body) for where in (remote, pocket))
    for index in range(numbers.get("n", 1)):
        assert said(mine, index) == said(theirs, index)
    assert mine[-1] == theirs[-1]
    assert mine[-1]["usage"]["completion_tokens"] > 0


def said(objects: list[dict[str, Any]], index: int) -> tuple[str, list[Any], list[str]]:
    """Return the text, the tokens' scores and the ends of one choice of a stream."""
    choices = [one for each in objects for one in each["choices"] if one["index"] == index]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    scores = [score for one in choices for score in (one["logprobs"] or {}).get("content") or ()]
    return text, scores, [one["finish_reason"] for one in choices if one["finish_reason"]]


def test_documents_are_plain_text_to_it(pocket: str, remote: str) -> None:
    body = {
        "messages": [{"role": "user", "content": "{documents}What is the city of Tom?"}],
        "documents": ["The city of Mira is Oslo.", "The city of Tom is Rome."],
        "temperature": 0,
    }
    assert post(remote, "chat/completions", body) == post(pocket, "chat/completions", body)


def ballot(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    candidates = [{"id": name, "text": text} for name, text in zip("xy", TEXTS, strict=True)]
    return {"question": QUESTION, "candidates": candidates, "stages": [*stages], **more}


@pytest.mark.parametrize(
    "stages",
    [
        (),
        ({"stage": "swap"},),
        ({"stage": "average"},),
        ({"stage": "portia"},),
        ({"stage": "sample", "k": 3},),
    ],
)
def test_a_judge_decides_as_the_other(
    pocket: str, remote: str, stages: tuple[dict[str, Any], ...]
) -> None:
    mine, theirs = (post(where, "judge", ballot(*stages)) for where in (remote, pocket))
    for name in ("winner", "status", "rung", "usage"):
        assert mine[name] == theirs[name]
    assert mine["margin"] == pytest.approx(theirs["margin"], abs=1e-6)
    assert mine["slot_bias"] == pytest.approx(theirs["slot_bias"], abs=1e-6)
    for one, other in zip(mine["calls"], theirs["calls"], strict=True):
        assert (one["text"], one["label"], one["order"]) == (
            other["text"],
            other["label"],
            other["order"],
        )
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-6)


@pytest.mark.parametrize("fields", [{}, {"ties": "forbid"}, {"tie_margin": 2.0}])
@pytest.mark.parametrize(
    "stages", [({"stage": "swap"},), ({"stage": "average"},), ({"stage": "portia"},)]
)
def test_a_decision_is_mirrored_to_the_bit(
    remote: str, stages: tuple[dict[str, Any], ...], fields: dict[str, Any]
) -> None:
    body = {**ballot(*stages), **fields, "min_probability": 0.6}
    one, other = (
        post(remote, "judge", {**body, "candidates": candidates})
        for candidates in (body["candidates"], body["candidates"][::-1])
    )
    told = ("winner", "preferred", "probability", "abstained", "status", "margin", "slot_bias")
    assert [one[name] for name in told] == [other[name] for name in told]
    assert one["probability"] is not None


def test_it_judges_in_all_orders_where_it_is_not_told(remote: str) -> None:
    body = {name: value for name, value in ballot().items() if name != "stages"}
    assert post(remote, "judge", body)["evenhand"]["stages"] == [{"stage": "average"}]


def test_average_is_refused_for_documents_in_one_sentence(pocket: str, remote: str) -> None:
    body = {"documents": ["A fox.", "A dog."], "stages": [{"stage": "average"}]}
    told = [
        refused(remote, "completions", {**body, "prompt": "Who?"}),
        refused(
            remote, "chat/completions", {**body, "messages": [{"role": "user", "content": "Who?"}]}
        ),
    ]
    for status, error in told:
        assert (status, error["param"]) == (400, "stages")
        assert error["message"] == (
            "stage 'average' must have an engine that offers attention, got a model without "
            f"(the model runs on another server, {pocket}/v1); leave the stage out or serve "
            "another model"
        )


def test_pine_is_refused_in_one_sentence(pocket: str, remote: str) -> None:
    status, error = refused(remote, "judge", ballot({"stage": "pine"}))
    assert status == 400
    assert error["message"] == (
        "stage 'pine' must have an engine that offers attention, got a model without (the model "
        f"runs on another server, {pocket}/v1); leave the stage out or serve another model"
    )


def test_the_models_are_named_as_by_the_other(pocket: str, remote: str, address: str) -> None:
    (card,) = httpx.get(f"{remote}/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == ("pocket", 2048)
    assert card["root"] == f"{pocket}/v1/models/pocket"
    assert card["abilities"] == ["logprobs", "text"]
    assert refused(remote, "completions", {"model": "none", "prompt": "x"})[0] == 404
    with front(address, remote_model="gpt-4o", served_model_name=("mine",)) as other:
        (card,) = httpx.get(f"{other}/v1/models").json()["data"]
        assert (card["id"], card["root"]) == ("mine", f"{address}/v1/models/gpt-4o")
        assert post(other, "completions", {"model": "mine", "prompt": "x"})["model"] == "mine"


def test_what_the_other_refuses_is_told_before_a_stream_begins(remote: str) -> None:
    for stream in (False, True):
        body = {"prompt": "Rome", "max_tokens": 10**6, "stream": stream}
        status, error = refused(remote, "completions", body)
        assert status == 400
        assert error["code"] == "context_length_exceeded"
        assert "got status 400 (This model's maximum context length is 2048" in error["message"]


def at_work(engine: Engine) -> int:
    """Return how many sequences the other server goes through in turn."""
    assert isinstance(engine, HfEngine)
    return len(engine._worker._queue)


LONG = {"prompt": ["Rome", "Oslo"], "max_tokens": 4000, "ignore_eos": True}


def test_a_client_that_hangs_up_stops_the_work_of_the_other(address: str, engine: Engine) -> None:
    with front(address) as here:
        url = f"{here}/v1/completions"
        with httpx.stream("POST", url, json={**LONG, "stream": True}, timeout=30):
            eventually(lambda: at_work(engine) == 2)
        eventually(lambda: at_work(engine) == 0, 2)  # the rest would take longer
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=LONG, timeout=1)
        eventually(lambda: at_work(engine) == 0, 2)


def test_a_full_server_says_when_to_come_back(address: str, engine: Engine) -> None:
    app = create_app(Settings(queue_limit=1), engine)
    with serving(app) as small, front(small, remote_retries=0) as here:
        long = {**LONG, "stream": True}
        with httpx.stream("POST", f"{small}/v1/completions", json=long, timeout=30):
            reply = httpx.post(f"{here}/v1/completions", json={"prompt": "x"}, timeout=30)
        assert reply.status_code == 429
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert int(reply.headers["retry-after"]) >= 1
        eventually(lambda: at_work(engine) == 0)


def test_a_judge_without_log_probabilities_is_read_from_its_text() -> None:
    script = content_judge(lambda text, slot: len(text) + slot / 2)
    with (
        serving(create_app(Settings(), Scripted(script, ("text",)))) as there,
        front(there) as here,
    ):
        (card,) = httpx.get(f"{here}/v1/models").json()["data"]
        assert card["abilities"] == ["text"]
        assert card["refusals"]["logprobs"] == "the remote server reports no log-probabilities"
        body = ballot({"stage": "swap"})
        body["candidates"][0]["text"] += " It is."
        reply = post(here, "judge", body)
        assert (reply["winner"], reply["status"], reply["margin"]) == ("x", "consistent", None)
        assert [call["label"] for call in reply["calls"]] == ["A", "B"]
        status, error = refused(here, "completions", {"prompt": "x", "logprobs": 1})
        assert (status, error["param"]) == (400, "logprobs")
        assert "must report log-probabilities, got one that does not" in error["message"]


RECORDED = Path(__file__).parents[3] / "shared" / "clients" / "requests.jsonl"


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded requests are not here")
def test_recorded_bodies_of_real_clients(address: str) -> None:
    names = ("tiny", "judge-local", "gpt-4o", "gpt-4o-mini", "gpt-4-1106-preview")
    with front(address, served_model_name=names) as here:
        for number, line in enumerate(map(json.loads, RECORDED.read_text().splitlines())):
            body = {**line["body"], "max_tokens": min(line["body"].get("max_tokens", 8), 8)}
            reply = httpx.post(here + line["path"], json=body, timeout=60)
            cannot = {"tools", "tool_choice"} & body.keys()
            assert reply.status_code == (400 if cannot else 200), (number, reply.text)
