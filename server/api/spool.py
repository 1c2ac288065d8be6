"""A large request body: read as fast as it comes, handed out line by line while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from tempfile import SpooledTemporaryFile

from starlette.types import Receive

from server.errors import EngineError, PlanError

READ = 1 << 16  # bytes


class Spool:
    """A body that is kept in memory while it is small, and else in a temporary file.

    Reading never waits for the work, since many clients (httpx, requests) read no answer before
    they have sent all; and a client that has gone is noticed only while it is read from.

    in_memory  bytes
    most       bytes of the whole body
    most_line  bytes of a line
    """

    def __init__(self, *, in_memory: int, most: int, most_line: int) -> None:
        self._file = SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115
        self._most, self._most_line = most, most_line
        self._size = self._read = 0
        self._ended = self._broken = False
        self._news = asyncio.Event()

    async def fill(self, receive: Receive) -> None:
        """Read the body, and return when the client has gone (ASGI)."""
        while (message := await receive())["type"] != "http.disconnect":
            self._add(message.get("body", b""), last=not message.get("more_body", False))

    def _add(self, piece: bytes, *, last: bool) -> None:
        """Keep a piece; what comes after the first byte too many is read and dropped."""
        if self._size <= self._most:
            try:
                self._file.seek(self._size)
                self._file.write(piece)
            except OSError:  # the disk is full
                self._broken = True
        self._size += len(piece)
        self._ended = self._ended or last
        self._news.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines without their ends, empty ones too.

        A line that is too long is cut after `most_line + 1` bytes, which shows it.
        raises  PlanError    413, after the last whole line of a body that is too large
                EngineError  503, the body could not be kept
        """
        line = bytearray()
        while True:
            self._news.clear()
            if self._broken:
                raise _no_room()
            piece = self._next()
            *whole, rest = piece.split(b"\n")
            for end in whole:
                self._extend(line, end)
                yield bytes(line)
                line.clear()
            self._extend(line, rest)
            if piece:
                continue
            if self._size > self._most:
                raise too_large(self._most)
            if self._ended:
                break
            await self._news.wait()
        if line:
            yield bytes(line)

    def _next(self) -> bytes:
        """Return what has come and not been read, at most `READ` bytes."""
        self._file.seek(self._read)
        piece = self._file.read(min(READ, self._most - self._read))
        self._read += len(piece)
        return piece

    def _extend(self, line: bytearray, piece: bytes) -> None:
        line += piece[: self._most_line + 1 - len(line)]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def too_large(most: int) -> PlanError:
    """Return the refusal of a batch that is too large (413)."""
    return PlanError(
        f"batch must be at most {most} bytes, got more; send the rest in another",
        status=413,
        code="request_too_large",
    )


def _no_room() -> EngineError:
    return EngineError(
        "batch must be kept until it is judged, got no room on the server's disk; "
        "send the lines without a reply in smaller batches",
        status=503,
        retry_after=60,
    )
