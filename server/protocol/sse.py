"""Server-sent events as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": ping\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(value: Mapping[str, Any]) -> bytes:
    """Return one event.

    Only ASCII leaves: some clients end a line at U+2028, U+0085 or a form feed too.
    """
    return b"data: " + json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"
