"""What goes wrong with another server, in our words: whose fault it is, and whether to retry."""

from __future__ import annotations

import math
from collections.abc import Mapping

import openai
from pydantic import ValidationError

from server.errors import EngineError, EvenhandError, Overloaded, PlanError

MOST_SHOWN = 300  # characters of the server's own message
AGAIN = 2  # seconds until a retry may succeed, where the server does not say
MOST_WAIT = 86400  # seconds: what a server may ask for
PASSED = (404, 413)  # statuses that a caller of ours may meet too
PASSING = {408: 504, 409: 502, 425: 503, 503: 503, 504: 504}  # of the server; ours
OVERLOADED = ("rate_limit_error", "rate_limit_exceeded")  # types and codes in a stream


def translated(error: openai.APIError | ValueError, where: str, timeout: float) -> EvenhandError:
    """Return one of the client's errors as ours.

    where    the server's URL
    timeout  seconds it was given
    """
    if isinstance(error, openai.APITimeoutError):
        return EngineError(
            f"remote server must answer within {timeout:g} s, got silence from {where}; try again, "
            "or set a longer --remote-timeout",
            status=504,
            code="remote_timeout",
            retry_after=AGAIN,
        )
    if isinstance(error, openai.APIConnectionError):
        return EngineError(
            f"remote server must be reachable, got no connection to {where} or a broken one; "
            "try again when it is up",
            status=502,
            code="remote_unreachable",
            retry_after=AGAIN,
        )
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    if isinstance(error, openai.APIError) and not isinstance(
        error, openai.APIResponseValidationError
    ):
        return _in_stream(error)
    return strange(_unread(error))


def strange(got: str) -> EngineError:
    """Return the error of an answer that is not one."""
    return EngineError(
        f"remote server must answer as OpenAI's does, got {got}; check that --remote-url is the "
        "base of such an API, which often ends in /v1",
        status=502,
        code="remote_answer",
    )


def _unread(error: Exception) -> str:
    """Return what was found where an answer should be."""
    if not isinstance(error, ValidationError):
        return "text that is not JSON"
    pointer = ".".join(str(step) for step in error.errors(include_url=False)[0]["loc"])
    return f"a wrong {pointer[:60]!r}" if pointer else "something that is no JSON object"


def _of_status(error: openai.APIStatusError) -> EvenhandError:
    status, said = error.status_code, _said(error.body)
    if status in (401, 403):  # its message may show the key
        return EngineError(
            f"remote server must accept the key, got status {status}; "
            "set EVENHAND_REMOTE_KEY to one that it knows",
            status=502,
            code="remote_key",
        )
    if status == 402 or error.code == "insufficient_quota":
        return EngineError(
            f"remote account must have credit left, got status {status}{said}; add some",
            status=502,
            code="remote_quota",
        )
    if status == 429:
        return _overloaded(f"status 429{said}", _wait(error))
    if status >= 500 or status in PASSING:
        return _failed(f"status {status}{said}", PASSING.get(status, 502), _wait(error))
    return _refused(error, f"status {status}{said}", status if status in PASSED else 400)


def _in_stream(error: openai.APIError) -> EvenhandError:
    """Return an error that came as an event, when the status had been sent."""
    got = f"an error in its stream{_said(error.body)}"
    if error.type == "invalid_request_error":
        return _refused(error, got, 400)
    if error.type in OVERLOADED or error.code in OVERLOADED:
        return _overloaded(got, AGAIN)
    return _failed(got, 502, AGAIN)


def _refused(error: openai.APIError, got: str, status: int) -> PlanError:
    return PlanError(
        f"request must be one that the remote server takes, got {got}; change it",
        status=status,
        param=error.param if isinstance(error.param, str) else None,
        code=error.code,
    )


def _overloaded(got: str, wait: int) -> Overloaded:
    return Overloaded(
        f"remote server must have a place free, got {got}; try again in {wait} s",
        code="remote_overloaded",
        retry_after=wait,
    )


def _failed(got: str, status: int, wait: int) -> EngineError:
    return EngineError(
        f"remote server must be well, got {got}; try again in {wait} s",
        status=status,
        code="remote_error",
        retry_after=wait,
    )


def _said(body: object) -> str:
    """Return the server's own message in brackets, on one line, or nothing."""
    found = body
    if isinstance(body, Mapping):
        found = body.get("message") or body.get("detail")
    text = " ".join(str(found or "").split()).rstrip(".")
    if not text:
        return ""
    return f" ({text[:MOST_SHOWN]}...)" if len(text) > MOST_SHOWN else f" ({text})"


def _wait(error: openai.APIStatusError) -> int:
    """Return the whole seconds that `Retry-After` asks for (a date there counts as not said)."""
    try:
        seconds = float(error.response.headers.get("retry-after", AGAIN))
        return min(max(math.ceil(seconds), 1), MOST_WAIT)
    except (ValueError, OverflowError):
        return AGAIN
