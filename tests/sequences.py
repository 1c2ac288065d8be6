"""What is done with sequences in tests: they answer, are compared, and their forwards watched."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable
from typing import Any

import pytest
from torch import nn

from server.chunk import Chunk, Scored
from server.engines.base import Session
from server.engines.hf import HfEngine
from server.job import Sampling

GREEDY = Sampling(max_tokens=8, temperature=0, ignore_eos=True, logprobs=2)
NEAR = 5e-5


class Widths:
    """How many tokens each forward reads; holds forwards back while `go` is clear."""

    def __init__(self, engine: HfEngine) -> None:
        self.go = threading.Event()
        self.go.set()
        self.held = threading.Event()
        self.seen: list[int] = []
        self.fail = False
        engine.model.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.held.set()
        self.go.wait(20)
        if self.fail:
            raise MemoryError("planted")
        self.seen.append(kwargs["input_ids"].shape[1])


async def drain(stream: AsyncIterable[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]


async def answer(session: Session, sampling: Sampling = GREEDY) -> list[Chunk]:
    return await drain(await session.generate(sampling))


def scored(chunks: list[Chunk]) -> list[Scored]:
    return [token for chunk in chunks for token in chunk.tokens]


def same(one: list[Chunk], other: list[Chunk]) -> None:
    """Assert that two answers have the same tokens, and logprobs but for rounding."""
    pairs = list(zip(scored(one), scored(other), strict=True))
    assert pairs
    for first, second in pairs:
        assert first.id == second.id
        assert first.logprob == pytest.approx(second.logprob, abs=NEAR)
