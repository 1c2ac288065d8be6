"""An engine whose answers are kept in a file: what was asked once is not computed again.

A run that was killed goes on where it was, and methods that ask the same share the answer: `none`,
`swap`, `average` are all made from the same two calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from server.chunk import Chunk, Usage
from server.engines.base import Ability, Engine, ModelInfo, Session
from server.errors import EngineError
from server.job import ReadingSpec, Work
from server.protocol.replies import fingerprint


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine said to some work, and how long it took.

    seconds  of the engine alone, with no other work beside it
    """

    chunks: tuple[Chunk, ...]
    seconds: float


class Remembered:
    """An engine that asks another one, one piece of work at a time, and keeps what it says.

    file  JSON Lines, appended to; a last line that is torn is dropped

    Answers are kept by the engine's fingerprint (weights, dtype, software) and all of the work but
    its id. Work whose answer has more than text and labels (logprobs, echo) is not kept.
    """

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine = engine
        self._made_by = fingerprint(engine.info)
        self._known, whole = _read(file)
        self._file: BinaryIO = file.open("ab")
        self._file.truncate(whole)
        self._alone = asyncio.Lock()
        self.seconds = 0.0  # of all work that was asked for, kept or not

    @property
    def info(self) -> ModelInfo:
        """Return the other engine's facts."""
        return self._engine.info

    @property
    def offers(self) -> frozenset[Ability]:
        """Return what the other engine offers."""
        return self._engine.offers

    @property
    def alive(self) -> bool:
        """Return whether the other engine would run work."""
        return self._engine.alive

    def refusal(self, reading: ReadingSpec) -> str | None:
        """Return why the model cannot be read so, or None."""
        return self._engine.refusal(reading)

    async def check(self, work: Work) -> None:
        """Refuse what the other engine refuses."""
        await self._engine.check(work)

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        """Return the chunks that are kept, or ask and keep them (see `Engine`)."""
        key = self._key(work)
        async with self._alone:  # seconds are those of this work alone
            known = self._known.get(key)
            if known is None:
                known = await self._ask(work)
                self._keep(key, known, work)
            self.seconds += known.seconds
        return _each(known.chunks)

    async def open(self, reading: ReadingSpec | None = None) -> Session:
        """Return a sequence of the other engine; nothing of it is kept."""
        return await self._engine.open(reading)

    async def close(self) -> None:
        """Close the file and the other engine."""
        self._file.close()
        await self._engine.close()

    def _key(self, work: Work) -> str:
        asked = f"{self._made_by} {replace(work, id='')!r}"
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    async def _ask(self, work: Work) -> Answer:
        begun = time.monotonic()
        chunks = tuple([chunk async for chunk in await self._engine.generate(work)])
        return Answer(chunks, round(time.monotonic() - begun, 6))

    def _keep(self, key: str, answer: Answer, work: Work) -> None:
        if work.sampling.logprobs is not None or work.sampling.echo:
            return
        self._known[key] = answer
        said = [_wire(chunk) for chunk in answer.chunks]
        line = {"key": key, "seconds": answer.seconds, "chunks": said}
        try:
            self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise EngineError(
                f"file of answers must take another line, got a fault ({error.strerror}); make "
                "room and run the same command again"
            ) from None


async def _each(chunks: tuple[Chunk, ...]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


def _wire(chunk: Chunk) -> dict[str, Any]:
    """Return what is kept of a chunk: all but its tokens."""
    said: dict[str, Any] = {"index": chunk.index, "text": chunk.text}
    optional: Mapping[str, Any] = {
        "labels": None if chunk.labels is None else dict(chunk.labels),
        "finish_reason": chunk.finish_reason,
        "stop_reason": chunk.stop_reason,
        "notes": dict(chunk.notes) or None,
    }
    if chunk.usage is not None:
        usage = chunk.usage
        said["usage"] = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens]
    return said | {name: value for name, value in optional.items() if value is not None}


def _chunk(said: dict[str, Any]) -> Chunk:
    usage = said.pop("usage", None)
    return Chunk(usage=None if usage is None else Usage(*usage), **said)


def _read(file: Path) -> tuple[dict[str, Answer], int]:
    """Return what a file keeps, and how many bytes of it are whole lines."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        data = file.read_bytes() if file.exists() else b""
        whole = data.rfind(b"\n") + 1
        lines = [json.loads(line) for line in data[:whole].splitlines()]
        known = {
            line["key"]: Answer(tuple(map(_chunk, line["chunks"])), line["seconds"])
            for line in lines
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"file of answers must be one of an earlier run, got {file} ({error}); name another "
            "folder"
        ) from None
    return known, whole
