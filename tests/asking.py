"""How the fixtures of the server's tests are asked, and what is read from an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import httpx
from click.testing import Result
from transformers import LlamaForCausalLM

from kvedit.reading import Reading
from kvedit.shelf import Shelf
from pine.segments import Segments
from server.engines.base import Engine
from server.engines.hf import HfEngine
from server.job import Chunk, Prompt, Usage

Command = Callable[..., Result]
MakeModel = Callable[[], LlamaForCausalLM]
Reader = Callable[[Segments, Shelf], Reading]


class Client(Protocol):
    """Makes a client of a server around an engine; settings are its other arguments."""

    def __call__(
        self, engine: Engine | None = None, **settings: Any
    ) -> Awaitable[httpx.AsyncClient]: ...


class MakeEngine(Protocol):
    """Makes an engine around a tiny model."""

    def __call__(self, **options: Any) -> HfEngine: ...


class Ask(Protocol):
    """Runs one job to its end: `ask(prompt, max_tokens=3)`."""

    def __call__(
        self,
        prompt: Prompt | str,
        reader: Reader | None = None,
        deterministic: bool = False,
        **numbers: Any,
    ) -> list[Chunk]: ...


def tokens(chunks: Iterable[Chunk], index: int = 0) -> list[int]:
    """Return the token ids of one choice."""
    return [token.id for chunk in chunks if chunk.index == index for token in chunk.tokens]


def usage(chunks: Sequence[Chunk]) -> Usage:
    """Return what the choice of the last chunk used."""
    used = chunks[-1].usage
    assert used is not None
    return used
