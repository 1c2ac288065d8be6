"""The running Evenhand, or any server with OpenAI's completions, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from server.errors import told
from server.lsp.options import Options

CONNECT_SECONDS = 3.0
SILENT_SECONDS = 120.0  # a long document is read before the first token
HERE = {"localhost", "127.0.0.1", "::1"}
LATER = {408, 429, 502, 503, 504}  # the same request may go through another time


class Refused(Exception):
    """A server did not do what it was asked.

    message  one sentence for the log
    status   of the reply; None = there was none
    code     of the error object
    param    of the error object
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a completion as it comes, and why it ended (None = it goes on)."""

    text: str
    reason: str | None = None


class Backend:
    """One server, one key, one model.

    keeps_documents  whether it has edit sessions, until it says no
    """

    def __init__(self, options: Options) -> None:
        self.keeps_documents = True
        key = options.api_key
        headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
        self.options = options
        self._model = options.model
        self._client = httpx.AsyncClient(
            base_url=options.base,
            headers={"user-agent": "evenhand-lsp", **headers},
            timeout=httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
            trust_env=urlsplit(options.base).hostname not in HERE,  # no proxy leads back here
        )

    async def close(self) -> None:
        """Close every connection; what still runs on the server stops."""
        await self._client.aclose()

    async def model(self) -> str | None:
        """Return the model to name: the chosen one, or the first that the server lists."""
        if self._model is None:
            listed = (await self.call("GET", "/v1/models")).get("data")
            if isinstance(listed, list) and listed and isinstance(listed[0], dict):
                self._model = listed[0].get("id")
        return self._model

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the object that a server answers with.

        raises  Refused  no answer, an error, or something else than an object
        """
        async with self._asked(method, path, body) as response:
            raw = await response.aread()
        if not raw:
            return {}
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refused(f"server must answer with a JSON object, got {path} without; see its log")
        return found

    async def pieces(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        """Yield a completion as it comes; closing the iterator stops the server's work.

        raises  Refused
        """
        asked = self._asked("POST", path, {**body, "stream": True})
        async with asked as response, aclosing(_events(response)) as events:
            async for event in events:
                yield _piece(event)

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[httpx.Response]:
        """Yield a good reply whose body is still to come; every failure of it is a Refused."""
        try:
            async with self._client.stream(method, path, json=body) as response:
                if response.is_error:
                    raise _refusal(response, await response.aread())
                yield response
        except httpx.TimeoutException as error:
            raise Refused(f"{self.options.base} took too long ({type(error).__name__})") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Refused(f"{self.options.base} does not answer: {told(error)}") from error


def _refusal(response: httpx.Response, raw: bytes) -> Refused:
    """Return what an error reply says."""
    status = response.status_code
    try:
        error = json.loads(raw)["error"]
        said, code, param = error["message"], error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        said, code, param = response.reason_phrase, None, None
    return Refused(f"{response.url.path} answered {status}: {said}", status, code, param)


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any]]:
    """Yield the objects of an event stream; lines end at line feeds, not at U+2028."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or data == b"[DONE]":
                continue
            try:
                event = json.loads(data)
            except ValueError:
                raise Refused("event must be JSON, got something else; see the server") from None
            if isinstance(event, dict):
                yield event


def _piece(event: Mapping[str, Any]) -> Piece:
    """Return what one event of a completion adds.

    raises  Refused  the server failed midway
    """
    if "error" in event:
        error = event["error"]
        said = error.get("message") if isinstance(error, dict) else error
        raise Refused(f"completion broke off: {said}")
    choices = event.get("choices") or [{}]
    return Piece(choices[0].get("text") or "", choices[0].get("finish_reason"))
