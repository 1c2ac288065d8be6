"""A server of completions that keeps documents or does not, and completes as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from live import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Completion = Callable[[str, str], Iterable[str]]  # before, after -> pieces


class Completing:
    """What it was asked, and what it keeps.

    complete   the pieces that it writes at a place
    pause      seconds before each piece
    reason     why its completions end
    fault      what a completion ends with in place of a reason
    key        that it wants
    fills      whether its model can fill in; else a suffix is refused
    context    characters that its model reads
    kept       documents by id, as characters; `keeps` = whether it has that interface at all
    places     before and after each completion
    asked      what came, as (method and path, body)
    stopped    how many completions were left before their end
    """

    def __init__(self) -> None:
        self.complete: Completion = lambda before, after: ["done"]
        self.pause = 0.0
        self.reason = "stop"
        self.fault: str | None = None
        self.keeps = True
        self.fills = True
        self.context = 10**9
        self.key: str | None = None
        self.kept: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.places: list[tuple[str, str]] = []
        self.running = self.stopped = 0
        self._ids = itertools.count()

    @property
    def paths(self) -> list[str]:
        """Return what was asked, ids left out."""
        return [path for path, _ in self.asked]

    @property
    def app(self) -> Starlette:
        sessions = "/v1/edit-sessions"
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route(sessions, self._create, methods=["POST"]),
                Route(sessions + "/{id}", self._patch, methods=["PATCH"]),
                Route(sessions + "/{id}", self._delete, methods=["DELETE"]),
                Route(sessions + "/{id}/complete", self._complete, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return refusal(401, "api key must be one that this server knows, got another")
        return JSONResponse({"data": [{"id": "coder"}]})

    async def _create(self, request: Request) -> Response:
        if not self.keeps:
            return refusal(404, "path must be one that this server has")
        body = await self._noted(request, "create")
        made = f"s{next(self._ids)}"
        self.kept[made], self.versions[made] = body["text"], 0
        return JSONResponse({"id": made, "version": 0})

    async def _patch(self, request: Request) -> Response:
        body, session = await self._noted(request, "patch"), request.path_params["id"]
        if session not in self.kept:
            return refusal(410, "session must be kept, got one that is not; make it anew")
        if body["base_version"] != self.versions[session]:
            return refusal(409, "base_version must be the current one, got another")
        assert body["encoding"] == "utf-32"
        for change in body["changes"]:
            text, start = self.kept[session], change["offset"]
            self.kept[session] = text[:start] + change["text"] + text[start + change["length"] :]
        if hashlib.sha256(self.kept[session].encode()).hexdigest() != body["hash"]:
            return refusal(409, "edit must give a text with that hash, got another")
        self.versions[session] = body["version"]
        return JSONResponse({"version": body["version"]})

    async def _delete(self, request: Request) -> Response:
        self.asked.append(("delete", {}))
        self.kept.pop(request.path_params["id"], None)
        return Response(status_code=204)

    async def _complete(self, request: Request) -> Response:
        body, session = await self._noted(request, "complete"), request.path_params["id"]
        if session not in self.kept:
            return refusal(410, "session must be kept, got one that is not; make it anew")
        if body["version"] != self.versions[session]:
            return refusal(409, "version must be the current one, got another")
        assert "model" not in body and body["encoding"] == "utf-32"
        text, offset = self.kept[session], body["offset"]
        return self._answer(text[:offset], text[offset:], body)

    async def _completions(self, request: Request) -> Response:
        body = await self._noted(request, "completions")
        if "suffix" in body and not self.fills:
            return refusal(400, "suffix must be left out for this model", param="suffix")
        return self._answer(body["prompt"], body.get("suffix", ""), body)

    async def _noted(self, request: Request, what: str) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.asked.append((what, body))
        return body

    def _answer(self, before: str, after: str, body: dict[str, Any]) -> Response:
        if len(before) + len(after) > self.context:
            return refusal(400, "too long", code="context_length_exceeded")
        assert body["stream"] is True
        self.places.append((before, after))
        return StreamingResponse(self._events(before, after), media_type="text/event-stream")

    async def _events(self, before: str, after: str) -> AsyncIterator[str]:
        whole = False
        self.running += 1
        try:
            for piece in self.complete(before, after):
                await asyncio.sleep(self.pause)
                yield event(piece, None)
            if self.fault is not None:
                yield f"data: {json.dumps({'error': {'message': self.fault}})}\n\n"
            yield event("", self.reason) + "data: [DONE]\n\n"
            whole = True
        finally:
            self.running -= 1
            self.stopped += not whole


def event(text: str, reason: str | None) -> str:
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n"


def refusal(status: int, message: str, **fields: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, **fields}}, status)


@contextmanager
def completing() -> Iterator[tuple[Completing, str]]:
    """Yield such a server and its address."""
    server = Completing()
    with serving(server.app) as address:
        yield server, address
