"""A server that is not ours, on a real socket: it answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from live import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-very-secret-0123456789"
AT_ONCE = {"retry-after-ms": "1"}
DONE = "data: [DONE]\n\n"

Answer = Callable[[dict[str, Any]], Response]


class OtherServer:
    """A server that answers chats in turn as it is told, the last answer again and again.

    bodies  what it was asked
    most    how many it was asked at once
    wait    seconds before it answers
    """

    def __init__(self) -> None:
        self.reset()
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)
        self.address = ""

    def reset(self) -> None:
        self.answers: list[Answer] = [lambda body: streamed("Hi", " there")]
        self.models: Response = JSONResponse({"data": [{"id": "theirs"}]})
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.wait = 0.0
        self.running = self.most = 0

    async def _models(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        return self.models

    async def _chat(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        body = await request.json()
        self.bodies.append(body)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.wait)
        self.running -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(body)


def event(text: str, **more: Any) -> str:
    choice = {"index": 0, "delta": {"content": text}, **more}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


def streamed(*texts: str, end: str = event("", finish_reason="stop") + DONE) -> Response:
    lines = [*map(event, texts), end]
    return StreamingResponse(iter(lines), media_type="text/event-stream")


def failed(status: int, body: object = None, **headers: str) -> Answer:
    content = {"error": {"message": "It broke. "}} if body is None else body
    sent = {**AT_ONCE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda asked: JSONResponse(content, status, sent)


@contextmanager
def other_server() -> Iterator[OtherServer]:
    """Serve one; yield it."""
    made = OtherServer()
    with serving(made.app) as address:
        made.address = f"{address}/v1"
        yield made
