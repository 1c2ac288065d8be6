"""`POST /v1/judge/batch` on a scripted judge: every line answered, a faulty one spoils no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from asking import Client

from server.api.batch import Line
from server.app import create_app
from server.chunk import Chunk
from server.engines.scripted import Answer, Scripted, content_judge
from server.errors import EngineError
from server.job import Sampling, Work
from server.judge.judging import Judging
from server.settings import Settings

SWAP = [{"stage": "swap"}]


def longer(text: str, slot: int) -> float:
    return float(len(text))


def request(name: object = None, *texts: str, **fields: Any) -> dict[str, Any]:
    named = {} if name is None else {"id": name}
    return {**named, "question": "Q?", "candidates": list(texts or ("a", "bb")), **fields}


def lines(*requests: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in requests)


async def post(client: httpx.AsyncClient, body: bytes, **headers: str) -> list[dict[str, Any]]:
    head = {"content-type": "application/x-ndjson", **headers}
    answer = await client.post("/v1/judge/batch", content=body, headers=head)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.content.isascii()
    return [json.loads(line) for line in answer.text.splitlines()]


def judge() -> Scripted:
    return Scripted(content_judge(longer))


async def test_each_line_is_answered_as_the_judge_answers_it(client: Client) -> None:
    http = await client(judge())
    asked = [request(f"n{index}", "x" * index, "yyy", stages=SWAP) for index in range(1, 8)]
    found = await post(http, lines(*asked))
    assert len(found) == 7
    for reply in found:
        index = reply.pop("index")
        alone = (await http.post("/v1/judge", json=asked[index])).json()
        assert reply.pop("id") == f"n{index + 1}"
        changing = ("id", "created", "evenhand")  # the judge itself warns of the unknown field id
        assert {k: v for k, v in reply.items() if k not in changing} == {
            k: v for k, v in alone.items() if k not in changing
        }
        assert "warnings" not in reply["evenhand"]


@pytest.mark.parametrize(
    ("line", "name", "said"),
    [
        (b"{nothing", None, "request body must be JSON"),
        (b"[1]", None, "request body must be a JSON object"),
        (lines(request("bad", "a")), "bad", "candidates must be a list of 2"),
        (lines(request("bad", model="other")), "bad", "model must be one of pocket"),
        (lines(request("bad", stages=[{"stage": "pine"}])), "bad", "stage 'pine' must have"),
        (lines(request("good")), "good", "id must differ"),
        (lines(request(True)), None, "id must be a string or a whole number"),
        (lines(request("")), "", "id must be a string or a whole number"),
        (lines(request("x" * 300)), None, "id must be a string or a whole number"),
        (lines(request("bad", stream=True)), "bad", "stream must be left out"),
    ],
)
async def test_a_faulty_line_spoils_no_other(
    client: Client, line: bytes, name: str | None, said: str
) -> None:
    http = await client(judge())
    body = lines(request("good")) + line.removesuffix(b"\n") + b"\n\n" + lines(request(7))
    found = {reply["index"]: reply for reply in await post(http, body)}
    assert sorted(found) == [0, 1, 3]
    assert found[1].keys() == {"id", "index", "error"}
    assert found[1]["id"] == name
    assert said in found[1]["error"]["message"]
    assert found[1]["error"].keys() == {"message", "type", "param", "code"}
    assert found[0]["winner"] == found[3]["winner"] == "1"
    assert found[3]["id"] == 7


async def test_a_failure_of_the_engine_is_one_lines_error(client: Client) -> None:
    def script(prompt: str, sampling: Sampling) -> Answer:
        if "fail" in prompt:
            raise EngineError("engine must run, got a fault; try again")
        if "break" in prompt:
            raise KeyError("a secret")
        return content_judge(longer)(prompt, sampling)

    http = await client(Scripted(script))
    found = await post(http, lines(request(0), request(1, "fail", "b"), request(2, "break", "b")))
    by_id = {reply["id"]: reply for reply in found}
    assert by_id[0]["winner"] == "1"
    assert by_id[1]["error"]["message"].startswith("engine must run")
    assert by_id[2]["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(by_id[2])


async def test_a_fault_of_ours_in_checking_is_one_lines_error(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = Judging.of

    def of(body: Line, *rest: Any) -> Judging:
        if body.id == 1:
            raise KeyError("a secret")
        return checked(body, *rest)

    monkeypatch.setattr(Judging, "of", of)
    found = await post(await client(judge()), lines(request(0), request(1), request(2)))
    assert {reply["id"]: "error" in reply for reply in found} == {0: False, 1: True, 2: False}
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("body", [b"", b"\n", b" \n\r\n"])
async def test_nothing_asked_is_nothing_answered(client: Client, body: bytes) -> None:
    assert await post(await client(judge()), body) == []


async def test_a_last_line_without_its_end_counts(client: Client) -> None:
    found = await post(await client(judge()), lines(request("a"), request("b")).rstrip(b"\n"))
    assert {reply["id"] for reply in found} == {"a", "b"}


async def test_limits_of_a_line_and_of_the_whole(client: Client) -> None:
    http = await client(judge(), max_body_bytes=1024, max_batch_bytes=4096)
    long = await post(http, lines(request("a"), request("b", "x" * 1500, "y"), request("c")))
    by_id = {reply["id"]: reply for reply in long}
    assert by_id.keys() == {"a", None, "c"}
    assert by_id[None]["error"]["code"] == "request_too_large"

    whole = b"".join(lines(request(index, "x" * 100, "y")) for index in range(60))
    refused = await http.post(
        "/v1/judge/batch", content=whole, headers={"content-type": "application/x-ndjson"}
    )
    assert refused.status_code == 413

    async def pieces() -> AsyncIterator[bytes]:  # of a length that is not declared
        yield whole

    head = {"content-type": "application/x-ndjson"}
    cut = await http.post("/v1/judge/batch", content=pieces(), headers=head)
    replies = [json.loads(line) for line in cut.text.splitlines()]  # in order of completion
    judged = sorted(reply["index"] for reply in replies if "error" not in reply)
    [refusal] = [reply for reply in replies if "error" in reply]
    assert judged == list(range(len(judged)))
    assert 0 < len(judged) < 60
    assert refusal["error"]["code"] == "request_too_large"


async def test_another_type_of_body_is_refused(client: Client) -> None:
    http = await client(judge())
    answer = await http.post("/v1/judge/batch", json=request("a"))
    assert answer.status_code == 415
    assert "content-type must be application/x-ndjson" in answer.json()["error"]["message"]


async def test_a_batch_takes_one_place_and_gives_it_back() -> None:
    app = create_app(Settings(queue_limit=1), judge())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        place = app.state.admission.take()
        head = {"content-type": "application/x-ndjson"}
        full = await http.post("/v1/judge/batch", content=lines(request("a")), headers=head)
        assert full.status_code == 429
        place.release()
        assert len(await post(http, lines(request("a")))) == 1
        assert app.state.admission.running == 0


async def test_a_server_that_aborts_ends_the_batch_with_an_error_line() -> None:
    engine = judge()
    app = create_app(Settings(batch_concurrency=2), engine)
    hold = asyncio.Event()
    answered = engine.generate

    async def generate(work: Work) -> AsyncIterator[Chunk]:
        if "wait" in str(work.prompts):
            await hold.wait()
        return await answered(work)

    engine.generate = generate  # type: ignore[method-assign]
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        asked = asyncio.create_task(post(http, lines(request("a"), request("b", "wait", "y"))))
        await asyncio.sleep(0.05)
        app.state.admission.abort()
        async with asyncio.timeout(5):
            first, last = await asked
    assert first["id"] == "a"
    assert last["error"]["code"] == "shutting_down"
    assert (last["id"], last["index"]) == (None, None)
    assert app.state.admission.running == 0
