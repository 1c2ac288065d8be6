"""Another server that refuses, is full, broken, or talks nonsense: what a caller is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from other_server import DONE, KEY, Answer, OtherServer, failed, streamed
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from server.engines.remote import Access, RemoteEngine
from server.errors import EngineError, EvenhandError, Overloaded, PlanError
from server.job import Sampling, Work
from server.prompt import ChatPrompt, Message, Part

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def theirs(served: OtherServer) -> OtherServer:
    served.reset()
    return served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(served: OtherServer) -> AsyncIterator[RemoteEngine]:
    """Yield an engine that never tries again."""
    made = RemoteEngine.load(Access(served.address, KEY, retries=0), logprobs="yes")
    yield made
    await made.close()


async def ask(engine: RemoteEngine, **numbers: Any) -> None:
    prompt = ChatPrompt((Message("user", (Part("Hello"),)),))
    async for _ in await engine.generate(Work((prompt,), Sampling(**numbers))):
        pass


@pytest.mark.parametrize(
    ("answer", "kind", "status", "wait", "said"),
    [
        (failed(400), PlanError, 400, None, "must be one that the remote server takes, got status"),
        (failed(404), PlanError, 404, None, "status 404 (It broke)"),
        (failed(413), PlanError, 413, None, "status 413 (It broke)"),
        (failed(422, {"detail": "no"}), PlanError, 400, None, "status 422 (no)"),
        (failed(400, {"error": "a\n b"}), PlanError, 400, None, "status 400 (a b)"),
        (failed(400, [1]), PlanError, 400, None, "status 400 ([1])"),
        (failed(401), EngineError, 502, None, "must accept the key, got status 401; set EVENHAND"),
        (failed(403), EngineError, 502, None, "must accept the key, got status 403"),
        (failed(402), EngineError, 502, None, "must have credit left"),
        (
            failed(429, {"error": {"message": "x", "code": "insufficient_quota"}}),
            EngineError,
            502,
            None,
            "must have credit left, got status 429 (x)",
        ),
        (failed(429, retry_after="7"), Overloaded, 429, 7, "try again in 7 s"),
        (failed(429, retry_after="0.2"), Overloaded, 429, 1, "must have a place free"),
        (failed(429, retry_after="soon"), Overloaded, 429, 2, "must have a place free"),
        (failed(408), EngineError, 504, 2, "must be well"),
        (failed(500), EngineError, 502, 2, "must be well, got status 500 (It broke); try again"),
        (failed(503, retry_after="30"), EngineError, 503, 30, "status 503"),
        (failed(504), EngineError, 504, 2, "status 504"),
        (failed(599, "x" * 900), EngineError, 502, 2, "(" + "x" * 300 + "...)"),
    ],
)
async def test_a_refusal_is_told_as_what_it_is(
    theirs: OtherServer,
    engine: RemoteEngine,
    answer: Answer,
    kind: type[EvenhandError],
    status: int,
    wait: int | None,
    said: str,
) -> None:
    theirs.answers = [answer]
    with pytest.raises(kind) as caught:
        await ask(engine)
    found = caught.value
    assert type(found) is kind
    assert (found.status, found.retry_after) == (status, wait)
    assert said in found.message
    assert "; " in found.message
    assert len(found.message) < 600


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda body: PlainTextResponse("<html>"), "must finish 1 choices, got 0"),
        (lambda body: JSONResponse({"choices": []}), "must finish 1 choices, got 0"),
        (lambda body: streamed("Hi", end=""), "must finish 1 choices, got 0"),
        (lambda body: streamed("Hi", end=DONE), "must finish 1 choices, got 0"),
        (lambda body: streamed("Hi", end="data: {\n\n"), "got text that is not JSON"),
        (lambda body: streamed("Hi", end="data: 5\n\n"), "got something that is no JSON object"),
        (lambda body: streamed(end='data: {"choices": 5}\n\n'), "got a wrong 'choices'"),
        (
            lambda body: streamed(end='data: {"choices": [{"index": "x"}]}\n\n'),
            "got a wrong 'choices.0.index'",
        ),
        (
            lambda body: StreamingResponse(
                iter([b"data: \xff\n\n"]), media_type="text/event-stream"
            ),
            "got text that is not JSON",
        ),
    ],
)
async def test_nonsense_in_a_stream(
    theirs: OtherServer, engine: RemoteEngine, answer: Answer, said: str
) -> None:
    theirs.answers = [answer]
    with pytest.raises(EngineError) as caught:
        await ask(engine)
    assert said in caught.value.message
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ("<html>hello", "text/html", "got something that is no JSON object"),
        ("{", "application/json", "got text that is not JSON"),
        ("[]", "application/json", "got something that is no JSON object"),
        ('{"choices": [{"message": 1}]}', "application/json", "got a wrong 'choices.0.message'"),
    ],
)
async def test_nonsense_for_a_whole_answer(
    theirs: OtherServer, engine: RemoteEngine, content: str, kind: str, said: str
) -> None:
    theirs.answers = [lambda body: Response(content, media_type=kind)]
    with pytest.raises(EngineError, match=said):
        await ask(engine, labels=("A",))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "no", "type": "invalid_request_error", "param": "stop"}, PlanError),
        ({"message": "no", "type": "rate_limit_error"}, Overloaded),
        ({"message": "no", "type": "server_error"}, EngineError),
        ({"message": "no"}, EngineError),
    ],
)
async def test_an_error_in_a_stream(
    theirs: OtherServer, engine: RemoteEngine, error: dict[str, str], kind: type[EvenhandError]
) -> None:
    theirs.answers = [
        lambda body: streamed("Hi", end=f"data: {json.dumps({'error': error})}\n\n{DONE}")
    ]
    with pytest.raises(kind, match=r"got an error in its stream \(no\); ") as caught:
        await ask(engine)
    assert type(caught.value) is kind
    assert caught.value.param == error.get("param")
