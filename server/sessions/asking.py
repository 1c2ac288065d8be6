"""Who made a session, and what is asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from server.chunk import Chunk
from server.job import Sampling
from server.prompt import Prompt
from server.sessions.document import Cursor, Document

Whole = Callable[[Prompt], Awaitable[AsyncIterator[Chunk]]]


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made a session, and of what.

    owner   nobody else may know of it
    model   served name
    stages  as on the wire
    warnings  what is told with every answer
    """

    owner: str
    model: str
    stages: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked at a place.

    version, document  that it is asked about
    whole     answers where no sequence is kept: it reads the whole prompt
    fill      whether what stands behind the place is told, where the model can fill in
    exact     nothing that was read may be stale
    deadline  of the loop's clock; None = it has time
    """

    version: int
    document: Document
    cursor: Cursor
    sampling: Sampling
    whole: Whole
    fill: bool = True
    continued: bool = False
    exact: bool = False
    deadline: float | None = None
