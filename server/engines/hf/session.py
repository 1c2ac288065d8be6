"""A sequence that stays: it is fed, answers, is fed again, and nothing is read twice."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from server.engines.hf.context import Context
from server.engines.hf.forward import Prefill
from server.engines.hf.preparation import Preparation
from server.engines.hf.stream import Channel, Stream
from server.engines.hf.worker import Ticket, Worker
from server.errors import PlanError
from server.job import ReadingSpec, Sampling
from server.prompt import Prompt
from server.text.prompts import Encoded


class HfSession:
    """One sequence of an `HfEngine` (see `server.engines.base.Session`).

    preparing  where prompts are encoded: one thread, since a tokenizer is not for two
    """

    def __init__(
        self,
        preparation: Preparation,
        preparing: Executor,
        worker: Worker,
        reading: ReadingSpec | None,
    ) -> None:
        self._preparation = preparation
        self._preparing = preparing
        self._worker = worker
        self._reading = reading
        self._context: Context | None = None
        self._fed: Encoded | None = None
        self._stream: Stream | None = None
        self._ticket: Ticket | None = None
        self._closed = False

    @property
    def length(self) -> int:
        """Return how many tokens it has, those included that it has still to read."""
        return 0 if self._context is None else len(self._context.ids)

    async def feed(self, prompt: Prompt) -> int:
        """Add a prompt at the end; the first is cut as the reading asks, later ones stay whole."""
        await self._free()
        reading = self._reading if self._context is None else None
        loop, encode = asyncio.get_running_loop(), self._preparation.encode
        encoded = await loop.run_in_executor(self._preparing, encode, prompt, reading)
        await self._free()
        self._preparation.room(self.length + len(encoded.ids), 0)
        if self._context is None:
            prefill = Prefill(self._preparation.model, 1)
            self._context = self._preparation.context(self._reading, encoded, prefill)
        self._context.feed(encoded.ids)
        self._fed = encoded
        return len(encoded.ids)

    async def generate(self, sampling: Sampling) -> Stream:
        """Answer after what was fed."""
        await self._free()
        self._worker.check()
        if self._context is None or self._fed is None:
            raise PlanError("sequence must be fed before it answers, got nothing; feed it")
        loop = asyncio.get_running_loop()
        again = self._preparation.again
        sequence = await loop.run_in_executor(
            self._preparing, again, self._context, sampling, self._fed
        )
        channel = Channel(loop)
        self._stream, self._ticket = Stream(channel, 1), Ticket([sequence], channel)
        self._worker.submit(self._ticket)
        return self._stream

    async def close(self) -> None:
        """Stop what is running, and forget the sequence."""
        if self._stream is not None:
            await self._stream.aclose()
        self._closed, self._context = True, None

    async def _free(self) -> None:
        """Wait until the worker has left the sequence; refuse to disturb an answer (PlanError)."""
        if self._closed:
            raise PlanError("sequence must be open, got one that was closed; open another")
        if self._stream is not None and not self._stream.ended:
            raise PlanError(
                "sequence must have finished its answer, got one that is still written; read its "
                "stream to the end, or close it"
            )
        if self._ticket is not None:  # a stream that was closed early: its last step may still run
            await asyncio.to_thread(self._ticket.left.wait)
