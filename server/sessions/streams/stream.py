"""One stream: its source comes piece by piece, and its target is written meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.chunk import FinishReason
from server.engines.base import GroupSession
from server.errors import PlanError
from server.sessions.streams.latency import latency
from server.sessions.streams.policy import Agreement, Policy, Tokens, Wait
from server.text.answer import TextStream
from server.text.segmenters import segmenter

AHEAD = 256  # pieces of a source that wait to be read; then whoever sends more waits


@dataclass(frozen=True, slots=True)
class Delta:
    """Some of the target.

    read  source pieces (words, as a rule) that were read when it was written
    """

    text: str
    read: int


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a stream.

    usage    tokens, and how many of them were computed
    latency  see `server.sessions.streams.latency`
    """

    finish_reason: FinishReason
    usage: dict[str, int]
    latency: dict[str, float]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stream was asked for.

    segmenter   by which the source is cut
    max_tokens  of the target; None = as many as there is room for
    idle        seconds without more of the source, after which the stream ends
    """

    policy: Policy
    segmenter: str = "words"
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    idle: float = 300.0


@dataclass
class _Source:
    """The source as it comes: whole pieces, held until they are read."""

    name: str
    idle: float
    pieces: deque[str] = field(default_factory=deque)
    ended: bool = False

    def __post_init__(self) -> None:
        self._segmenter = segmenter(self.name)
        self._changed = asyncio.Condition()

    @property
    def over(self) -> bool:
        """Return whether nothing is left to read."""
        return self.ended and not self.pieces

    async def append(self, text: str) -> None:
        if self.ended:
            raise PlanError("source must be open to grow, got more behind its end; open a stream")
        for piece in self._segmenter.feed(text):
            async with self._changed:
                await self._changed.wait_for(lambda: len(self.pieces) < AHEAD)
                self.pieces.append(piece)
                self._changed.notify_all()

    async def end(self) -> None:
        if self.ended:
            return
        async with self._changed:
            self.pieces += self._segmenter.end()
            self.ended = True
            self._changed.notify_all()

    async def next(self) -> str | None:
        """Return the next piece once it is there; None at the end (PlanError: it stays away)."""
        try:
            async with asyncio.timeout(self.idle), self._changed:
                await self._changed.wait_for(lambda: bool(self.pieces) or self.ended)
                piece = self.pieces.popleft() if self.pieces else None
                self._changed.notify_all()
        except TimeoutError:
            raise PlanError(
                f"source must go on within {self.idle:g} seconds, got nothing; open another stream",
                status=408,
                code="stream_idle",
            ) from None
        return piece


class Stream:
    """Iterate over it for the target: nothing is computed that is not asked for.

    It is no worker's and no thread's affair while it waits for its source, or for its reader.
    """

    def __init__(self, groups: GroupSession, asked: Asked) -> None:
        self._groups, self._asked = groups, asked
        self._source = _Source(asked.segmenter, asked.idle)
        self._tokens = Tokens(groups.text, groups.ends)
        self._answer = TextStream(asked.stop)
        self._words: list[int] = []  # by written word, how many pieces had been read
        self._in_word = False
        self._read = self._count = 0
        self._deltas = self._run()

    async def append(self, text: str) -> None:
        """Add to the source; wait while much of it is unread (PlanError behind its end)."""
        await self._source.append(text)

    async def end(self) -> None:
        """Say that the source is whole."""
        await self._source.end()

    def __aiter__(self) -> AsyncGenerator[Delta | Done, None]:
        return self._deltas

    async def close(self) -> None:
        """Forget the sequence; what runs for it ends with its step."""
        await self._groups.close()

    @property
    def facts(self) -> dict[str, Any]:
        """Return how late it is so far, and what it took."""
        return {
            "usage": self._groups.usage,
            "latency": latency(self._words, self._read),
            "source_words": self._read,
            "target_words": len(self._words),
        }

    async def _run(self) -> AsyncGenerator[Delta | Done, None]:
        policy = self._asked.policy
        written = self._agreed(policy) if isinstance(policy, Agreement) else self._waited(policy)
        reason: FinishReason = "stop"
        async for token in written:
            if token is None:
                reason = "length"
                break
            if (delta := self._said(self._answer.feed(self._groups.shown(token)))) is not None:
                yield delta
            if self._answer.stopped is not None:
                break
        else:
            if (delta := self._said(self._answer.end())) is not None:
                yield delta
        if reason == "length" and (delta := self._said(self._answer.end())) is not None:
            yield delta
        yield Done(reason, self._groups.usage, latency(self._words, self._read))

    async def _waited(self, policy: Wait) -> AsyncGenerator[int | None, None]:
        """Yield tokens as wait-k writes them; None = there is no room for another."""
        word = 0
        while True:
            allowed = policy.first is None or self._read < policy.first + word
            if allowed and await self._more():
                continue
            token = await self._groups.say()
            its = word + (self._count > 0 and self._tokens.begins(token))
            waits = policy.waits(self._tokens, token, its, self._read)
            if waits and not self._over and await self._more():
                continue
            if token in self._groups.ends:
                return
            if not self._write(token):
                yield None
                return
            word = its
            yield token

    async def _agreed(self, policy: Agreement) -> AsyncGenerator[int | None, None]:
        """Yield tokens that two guesses agree on, and at the end the rest of the last guess."""
        out, before = list[int](), list[int]()
        while True:
            for _ in range(policy.every):
                if not await self._more():
                    break
            guess, full = await self._guess(policy, out)
            agreed = guess if self._over else policy.agreed(self._tokens, before, guess)
            agreed = agreed if len(agreed) > len(out) else out
            await self._groups.retract(len(guess) - len(agreed))
            fresh, out, before = agreed[len(out) :], list(agreed), guess
            for token in fresh:
                yield token
            if self._over:
                if full:
                    yield None
                return

    async def _guess(self, policy: Agreement, out: Sequence[int]) -> tuple[list[int], bool]:
        """Return what the model says behind what stands, and whether it was cut short.

        While more comes, nothing behind a sentence's end can be agreed on: it is not guessed.
        """
        guess, self._count = list(out), len(out)
        while (token := await self._groups.say()) not in self._groups.ends:
            if not self._write(token):
                return guess, True
            guess.append(token)
            if policy.hold and not self._over and self._tokens.stops(token):
                break
        return guess, False

    @property
    def _over(self) -> bool:
        return self._source.over

    async def _more(self) -> bool:
        """Read a piece; return whether there was one."""
        piece = None if self._over else await self._source.next()
        if piece is None:
            self._groups.end()
            return False
        await self._groups.read(piece)
        self._read += 1
        if self._over:
            self._groups.end()
        return True

    def _write(self, token: int) -> bool:
        """Add a token to the target; return False where there is no room."""
        most = self._asked.max_tokens
        if not self._groups.room or (most is not None and self._count >= most):
            return False
        self._groups.write(token)
        self._count += 1
        return True

    def _said(self, text: str) -> Delta | None:
        """Return some text as a delta, and count its words."""
        for character in text:
            if not character.isspace() and not self._in_word:
                self._words.append(self._read)
            self._in_word = not character.isspace()
        return Delta(text, self._read) if text else None
