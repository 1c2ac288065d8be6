"""How the fixtures of the server's tests are asked, and what is read from an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from typer.testing import Result

from server.chunk import Chunk, Usage
from server.engines.base import Engine
from server.job import ReadingSpec
from server.prompt import Prompt

if TYPE_CHECKING:  # most of those who ask need no model
    from transformers import LlamaForCausalLM

    from kvedit.reading import Reading
    from kvedit.segments import Segments
    from kvedit.shelf import Shelf
    from server.engines.hf import HfEngine

Command = Callable[..., Result]


class Client(Protocol):
    """Makes a client of a server around an engine; settings are its other arguments."""

    def __call__(
        self, engine: Engine | None = None, **settings: Any
    ) -> Awaitable[httpx.AsyncClient]: ...


class Builder(Protocol):
    """Makes the reading of one prompt; without a shelf, one that is only asked what it suits."""

    def __call__(self, segments: Segments | None, shelf: Shelf | None, /) -> Reading: ...


class Through(Protocol):
    """Makes a spec of a test's own reading."""

    def __call__(self, builder: Builder, /) -> ReadingSpec: ...


class MakeModel(Protocol):
    """Makes a tiny model, each time an equal one."""

    def __call__(self) -> LlamaForCausalLM: ...


class MakeEngine(Protocol):
    """Makes an engine around a tiny model."""

    def __call__(self, **options: Any) -> HfEngine: ...


class Ask(Protocol):
    """Runs one work to its end: `ask(prompt, max_tokens=3)`."""

    def __call__(
        self,
        prompt: Prompt | str,
        reading: ReadingSpec | None = None,
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
