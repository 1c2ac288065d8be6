"""What every endpoint needs: the service, the body, the model's name, the client's patience."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect, HTTPConnection

from server.admission import Admission
from server.engines.base import Engine
from server.errors import EngineError, PlanError
from server.judge.calibration import Calibration
from server.pipeline.compose import Answers
from server.protocol.common import Body, parse
from server.sessions.implicit import Implicit
from server.sessions.sessions import Sessions
from server.settings import Settings

T = TypeVar("T")
B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Service:
    """What one application serves with; made once, in its lifespan."""

    settings: Settings
    engine: Engine
    admission: Admission
    calibration: Calibration = field(default_factory=partial(Calibration, None))
    sessions: Sessions = field(default_factory=partial(Sessions, 2**28, 2**24))
    sequences: Implicit | None = None

    def answerer(self, request: Request, *names: object) -> Answers:
        """Return what answers a client's work: its sequences that stay, where there are any.

        names  by which it tells apart what it works on, besides its key
        """
        if self.sequences is None:
            return self.engine
        return self.sequences.of((authorised(request), *names))


def service(request: HTTPConnection) -> Service:
    """Return the application's service (a FastAPI dependency); EngineError 503 before it is up."""
    found = getattr(request.app.state, "service", None)
    if isinstance(found, Service):
        return found
    raise EngineError(
        "model must be loaded to answer, got a request while it loads; "
        "try again when /ready answers 200",
        status=503,
        code="model_loading",
        retry_after=1,
    )


def authorised(request: HTTPConnection) -> str:
    """Check the bearer key where the operator set any (a FastAPI dependency); PlanError 401.

    returns  what stands for the key: what belongs to one is not told to another; empty where the
             server is open to all
    """
    settings: Settings = request.app.state.settings
    if not settings.api_keys:
        return ""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # a header is bytes, shown as Latin-1; clients send letters beyond ASCII as UTF-8
    key = given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
    known = (accepted.get_secret_value().encode() for accepted in settings.api_keys)
    if not any(secrets.compare_digest(key, accepted) for accepted in known):
        raise PlanError(
            "API key must be one this server knows, got another or none; "
            "send `Authorization: Bearer KEY`",
            status=401,
            code="invalid_api_key",
        )
    return hashlib.sha256(key).hexdigest()


async def read(request: Request, kind: type[B]) -> B:
    """Read the JSON body into a wire type.

    raises  PlanError   413 too large, 415 not declared as JSON, 400 anything else
    """
    settings: Settings = request.app.state.settings
    declared = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if declared.lower() != "application/json" and not declared.lower().endswith("+json"):
        raise PlanError(
            f"content-type must be application/json, got {declared[:100]}; "
            "send the header `content-type: application/json`",
            status=415,
        )
    return parse(await _body(request, settings.max_body_bytes), kind, strict=settings.strict)


async def _body(request: Request, limit: int) -> bytes:
    """Read the body, stopping at the first byte over the limit (413).

    The server reads and drops the rest, so that the client is not cut off before its answer.
    """
    declared = request.headers.get("content-length", "")
    received, size = [], int(declared) if declared.isdecimal() and len(declared) < 20 else 0
    if size <= limit:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                break
            received.append(piece)
    if size > limit:
        raise PlanError(
            f"request body must be at most {limit} bytes, got {size} or more; send less text",
            status=413,
            code="request_too_large",
        )
    return b"".join(received)


def resolve(
    service: Service, model: str | None, stages: list[dict[str, Any]] | None
) -> tuple[str, list[dict[str, Any]] | None]:
    """Return the served name and the stages, those of `name+stage+stage` after the body's.

    model    None = the default model
    returns  stages None where neither the body nor the name gives any
    raises   PlanError 404 `model_not_found`
    """
    names = service.settings.names
    if model is None or model in names:
        return model or names[0], stages
    for name in sorted(names, key=len, reverse=True):
        if model.startswith(f"{name}+"):
            added = [{"stage": stage} for stage in model[len(name) + 1 :].split("+")]
            return name, [*(stages or []), *added]
    raise PlanError(
        f"model must be one of {', '.join(names)}, got {model[:200]!r}; "
        f"ask for {names[0]!r}, or {names[0] + '+STAGE'!r} to add a stage",
        param="model",
        code="model_not_found",
        status=404,
    )


async def until_disconnect(request: Request, awaitable: Awaitable[T]) -> T:
    """Await the work unless the client goes away or the server aborts; then cancel it.

    raises  ClientDisconnect  the client went away
            EngineError       503, the server is stopping
    """
    admission = service(request).admission
    work = asyncio.ensure_future(awaitable)
    gone = asyncio.create_task(disconnected(request))
    stop = asyncio.create_task(admission.aborted.wait())
    try:
        await asyncio.wait({work, gone, stop}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientDisconnect if gone.done() else admission.stopping()
    finally:
        for task in (work, gone, stop):
            task.cancel()
        await asyncio.gather(work, gone, stop, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Return when the client has gone; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def unexpected() -> EngineError:
    """Return what a client is told of a fault of ours; the log has the rest."""
    return EngineError(
        "request must be answered, got an unexpected fault of the server; "
        "tell its operator the x-request-id"
    )
