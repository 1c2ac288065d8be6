"""What surrounds every request: its id in, out and in the log, and the last resort of errors."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.common import unexpected

log = logging.getLogger("evenhand")

SLASHES = re.compile(r"//+")
ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


class PlainPath:
    """Read `/v1/models/` and `/v1//models` as `/v1/models`: clients join addresses as they like."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under its plain path (ASGI)."""
        if scope["type"] in ("http", "websocket"):
            path = SLASHES.sub("/", scope["path"])
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await self.app(scope, receive, send)


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
