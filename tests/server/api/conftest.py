"""An application around a scripted engine, and a client that talks to it without a socket."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from asking import Client

from server.app import create_app
from server.engines.base import Engine
from server.engines.scripted import Answer, Scripted
from server.settings import Settings


def echoing() -> Scripted:
    """Return an engine that repeats its prompt."""
    return Scripted(lambda prompt, sampling: Answer(prompt))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Yield a maker of clients; settings are its arguments."""
    async with AsyncExitStack() as stack:

        async def make(engine: Engine | None = None, **settings: Any) -> httpx.AsyncClient:
            app = create_app(Settings(**settings), echoing() if engine is None else engine)
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app)
            made = httpx.AsyncClient(transport=transport, base_url="http://test")
            return await stack.enter_async_context(made)

        yield make
