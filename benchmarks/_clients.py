"""Clients that read streams: when the tokens of each came, and how many there were."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

URL = "/v1/chat/completions"
SILENCE = 3600.0  # seconds: a server that answers one after another lets the last one wait long


@dataclass(frozen=True)
class Answer:
    """One stream.

    begun   when it was asked, seconds
    times   when each chunk with text came, seconds
    tokens  as the server counts them
    """

    begun: float
    times: tuple[float, ...]
    tokens: int
    prompt_tokens: int
    text: str


@dataclass(frozen=True)
class Figures:
    """One round of some clients: tokens a second of all together, the rest in seconds.

    first      time to the first token, median over clients
    gap, late  time between two chunks, median and 95th percentile over all of all clients
    """

    rate: float
    first: float
    gap: float
    late: float


class Failure(Exception):
    """A server did not answer as it must; the reason is a sentence."""


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    """Stream one answer to its end.

    raises  Failure  if the server refuses, reports an error, or hangs up
    """
    begun, times, texts = time.perf_counter(), [], []
    usage: dict[str, Any] = {}
    try:
        async with client.stream("POST", URL, json=body) as stream:
            if stream.status_code != 200:
                said = (await stream.aread()).decode(errors="replace")
                raise Failure(f"answered {stream.status_code}: {said[:500]}")
            async for line in stream.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise Failure(f"broke off: {chunk['error']}")
                usage = chunk.get("usage") or usage
                text = "".join(each["delta"].get("content") or "" for each in chunk["choices"])
                if text:
                    times.append(time.perf_counter())
                    texts.append(text)
    except httpx.HTTPError as error:
        raise Failure(f"hung up: {error}") from error
    if len(times) < 2 or not usage:
        raise Failure(f"gave {len(times)} chunks with text, and the usage {usage}")
    return Answer(
        begun, tuple(times), usage["completion_tokens"], usage["prompt_tokens"], "".join(texts)
    )


async def at_once(address: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Ask all at once; the first failure ends them all."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(SILENCE, connect=60)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=timeout) as client:
        asked = [asyncio.create_task(ask(client, body)) for body in bodies]
        try:
            return list(await asyncio.gather(*asked))
        finally:
            for task in asked:  # of those that a failure left behind
                task.cancel()


def figures(answers: Sequence[Answer]) -> Figures:
    """Return what a round of answers says."""
    start = min(answer.begun for answer in answers)
    end = max(answer.times[-1] for answer in answers)
    gaps = [
        after - before
        for answer in answers
        for before, after in zip(answer.times, answer.times[1:], strict=False)
    ]
    return Figures(
        rate=sum(answer.tokens for answer in answers) / (end - start),
        first=statistics.median(answer.times[0] - answer.begun for answer in answers),
        gap=statistics.median(gaps),
        late=statistics.quantiles(gaps, n=20)[-1],
    )


def middle(rounds: Sequence[Figures]) -> Figures:
    """Return the medians of some rounds."""
    names = ("rate", "first", "gap", "late")
    return Figures(*(statistics.median(getattr(each, name) for each in rounds) for name in names))
