"""The application: routes, errors in OpenAI's form, and the engine's life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.admission import Admission
from server.api import (
    about,
    batch,
    chat,
    completions,
    edits,
    edits_socket,
    fim,
    health,
    judge,
    models,
    streams,
)
from server.api.common import Service, authorised
from server.api.middleware import PlainPath, RequestLog
from server.engines.base import Engine
from server.engines.registry import load
from server.errors import EvenhandError, PlanError
from server.judge.calibration import Calibration
from server.protocol.common import fault
from server.sessions.implicit import Implicit
from server.sessions.sessions import Sessions
from server.settings import Settings


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """Return the application.

    engine  None = loaded when the application starts, closed when it stops; an engine that is
            given is the caller's to close
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ours = await asyncio.to_thread(load, settings) if engine is None else engine
        calibration = await asyncio.to_thread(Calibration, settings.slot_biases)
        named = settings.naming(ours.info.id)
        sessions = Sessions(settings.session_bytes, settings.max_body_bytes)
        sequences = Implicit(
            ours,
            most=settings.fim_sessions,
            budget=settings.fim_session_bytes,
            idle=settings.fim_idle_seconds,
        )
        kept = calibration, sessions, sequences
        app.state.service = Service(named, ours, app.state.admission, *kept)
        try:
            yield
        finally:
            await sessions.close()
            await sequences.close()
            calibration.close()
            if engine is None:
                await ours.close()

    # with keys its description is a route as others, in `about`; its pages cannot send one
    described = None if settings.api_keys else "/openapi.json"
    app = FastAPI(
        title="Evenhand", version=version("evenhand"), lifespan=lifespan, openapi_url=described
    )
    app.state.settings = settings
    app.state.admission = Admission(settings.queue_limit)
    app.include_router(health.router)
    for module in (
        *(completions, chat, fim, models, judge, batch),
        *(edits, edits_socket, streams, about),
    ):
        app.include_router(module.router, dependencies=[Depends(authorised)])
    _add_errors(app)
    app.add_middleware(PlainPath)
    app.add_middleware(RequestLog)
    return app


def _add_errors(app: FastAPI) -> None:
    """Answer every error with the OpenAI error object."""

    @app.exception_handler(EvenhandError)
    async def ours(request: Request, error: EvenhandError) -> Response:
        after = error.retry_after
        headers = {} if after is None else {"retry-after": str(after)}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        return _refused(error, headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _refused(_of_route(request, error), error.headers or {})

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        return _refused(fault(error.errors()), {})

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; the log does


def _refused(error: EvenhandError, headers: Mapping[str, str]) -> Response:
    return JSONResponse(error.wire(), error.status, dict(headers))


def _of_route(request: Request, error: HTTPException) -> EvenhandError:
    """Return the framework's own refusals (no such route, wrong method) in our words."""
    path, method = request.url.path[:200], request.method[:20]
    if error.status_code == 404:
        message = f"path must be one that this server has, got {path}; see /v1/models and the docs"
        return PlanError(message, status=404, code="not_found")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another")
        message = f"method must be {allowed} on {path}, got {method}; send it so"
        return PlanError(message, status=405, code="method_not_allowed")
    message = f"request must be one that this server can read, got {error.detail}; correct it"
    return PlanError(message, status=error.status_code)
