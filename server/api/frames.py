"""Frames of a WebSocket: JSON objects that say their type, each read as a body is."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import from_json
from starlette.types import Message

from server.errors import PlanError
from server.protocol.common import Body, parse, shown
from server.settings import Settings


def raw(message: Message) -> bytes:
    """Return what a message says, sent as text or as bytes."""
    data = message.get("text")
    return (message.get("bytes") or b"") if data is None else data.encode()


def read(data: bytes, kinds: Mapping[str, type[Body]], settings: Settings) -> Body:
    """Read a frame (PlanError).

    kinds  of frames, by type
    """
    if len(data) > settings.max_body_bytes:
        raise PlanError(
            f"frame must be at most {settings.max_body_bytes} bytes, got {len(data)}; "
            "send less text",
            status=413,
            code="request_too_large",
        )
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise PlanError(f"frame must be JSON, got a fault: {error}; correct it") from None
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise PlanError(
            f"frame must be of type {', '.join(kinds)}, got {shown(kind)}; send one of these",
            param="type",
        )
    return parse(data, kinds[kind], strict=settings.strict)
