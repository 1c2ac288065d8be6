"""What surrounds every request: its id in, out and in the log; its body read to the end."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.common import unexpected

log = logging.getLogger("evenhand")

ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestLog:
    """Give each request an id, log its end, and turn an unknown failure into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if ACCEPTED_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        begun, status = time.monotonic(), 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            await self.app(scope, receive, named)
        except Exception:
            log.exception("%s failed", name)
            if not status:
                await JSONResponse(unexpected().wire(), 500)(scope, receive, named)
        seconds = time.monotonic() - begun
        path = scope["path"].encode("unicode_escape").decode()[:200]
        log.info("%s %s %s %d %.3f s", name, scope["method"], path, status, seconds)


class ReadToEnd:
    """Read and drop what a refused request has not sent yet, before it gets its answer.

    A server that closes a connection with unread data resets it, and the client loses the answer.

    limit    bytes dropped at most
    seconds  spent on it at most
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float = 20.0) -> None:
        self.app = app
        self.limit = limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        unread = "content-length" in headers or "transfer-encoding" in headers
        waits = headers.get("expect", "").lower() == "100-continue"  # it sends only when we read

        async def reading() -> Message:
            nonlocal unread, waits
            waits = False
            message = await receive()
            unread = unread and bool(message.get("more_body"))
            return message

        async def answering(message: Message) -> None:
            nonlocal unread
            if message["type"] == "http.response.start" and unread:
                if waits or not await self._drop(reading):
                    MutableHeaders(scope=message)["connection"] = "close"
                unread = False
            await send(message)

        await self.app(scope, reading, answering)

    async def _drop(self, receive: Receive) -> bool:
        """Return whether the end was reached within the limits."""
        dropped = 0
        try:
            async with asyncio.timeout(self.seconds):
                while dropped <= self.limit:
                    message = await receive()
                    dropped += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return True
        except TimeoutError:
            return False
        return False
