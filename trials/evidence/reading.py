"""One question among documents, asked as `/v1/chat/completions` would ask it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.chunk import Chunk, Usage
from server.engines.base import Engine
from server.errand import Errand
from server.pipeline import compose
from server.protocol.chat import ChatBody
from server.protocol.common import parse
from trials.evidence.questions import Question


@dataclass(frozen=True, slots=True)
class Read:
    """What was said, and what it took.

    tokens  read and written
    """

    text: str
    right: bool
    tokens: int


async def ask(
    question: Question, documents: Sequence[str], stages: list[dict[str, Any]], engine: Engine
) -> Read:
    """Ask an engine greedily about a question, under some stages (errors as the endpoint's)."""
    wire = {
        "messages": [{"role": "user", "content": question.prompt}],
        "documents": list(documents),
        "max_tokens": question.tokens,
        "temperature": 0,
    }
    body = parse(json.dumps(wire).encode(), ChatBody, strict=True)
    errand = Errand.of(body, engine, engine.info.id, stages, lambda job: job)
    reply = await compose(errand.plan, engine)(errand.job.but(deterministic=True))
    chunks = [chunk async for chunk in reply.text]
    text, usage = "".join(chunk.text for chunk in chunks), _usage(chunks)
    tokens = usage.prompt_tokens + usage.completion_tokens
    return Read(text, question.right(text), tokens)


def _usage(chunks: Sequence[Chunk]) -> Usage:
    return next((chunk.usage for chunk in reversed(chunks) if chunk.usage), Usage())
