"""The two errors a caller can meet, and their one form on the wire.

A `PlanError` asks for something impossible: 4xx, retrying never helps. An `EngineError` failed
while running: 5xx or 429, and says whether a retry may help. Messages read
`<thing> must|cannot <condition>, got <value>; <what to do>`.
"""

from __future__ import annotations

from typing import Any


class EvenhandError(Exception):
    """An error as it is told on the wire (the OpenAI error object).

    message      one sentence
    status       HTTP status
    kind         the object's `type`
    param, code  the object's `param` and `code`, or None
    retry_after  seconds until a retry may succeed, or None if it never will
    """

    status = 500
    kind = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = self.status if status is None else status
        self.retry_after = retry_after

    def wire(self) -> dict[str, dict[str, Any]]:
        """Return the OpenAI error object."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def told(error: Exception, lines: int = 1) -> str:
    """Return the first lines of what a library's error says, or its kind where it says nothing."""
    said = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(said[:lines])


class PlanError(EvenhandError):
    """What was asked cannot be done; the request is at fault (4xx)."""

    status = 400
    kind = "invalid_request_error"


class EngineError(EvenhandError):
    """Running failed; the request is not at fault (5xx), or the server is full (429)."""

    status = 500
    kind = "server_error"


class Overloaded(EngineError):
    """Every place is taken; the caller may come back (429 with Retry-After)."""

    status = 429
    kind = "rate_limit_error"
