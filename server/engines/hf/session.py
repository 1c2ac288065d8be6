"""A sequence that stays: it is fed, answers, is fed again, and nothing is read twice."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from server.engines.hf.context import Context
from server.engines.hf.forward import Prefill
from server.engines.hf.preparation import Preparation
from server.engines.hf.stream import Channel, Stream
from server.engines.hf.worker import Ticket, Worker
from server.errors import EngineError, PlanError
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
        self._busy = asyncio.Lock()  # one at a time feeds it, or begins an answer

    @property
    def length(self) -> int:
        """Return how many tokens it has, those included that it has still to read."""
        return 0 if self._context is None else len(self._context.ids)

    async def feed(self, prompt: Prompt) -> int:
        """Add a prompt at the end; the first is cut as the reading asks, later ones stay whole."""
        async with self._busy:
            await self._free()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._preparing, self._add, prompt)

    async def generate(self, sampling: Sampling) -> Stream:
        """Answer after what was fed."""
        async with self._busy:
            await self._free()
            if self._context is None or self._fed is None:
                raise PlanError("sequence must be fed before it answers, got nothing; feed it")
            loop, again = asyncio.get_running_loop(), self._preparation.again
            asked = self._context, sampling, self._fed
            sequence = await loop.run_in_executor(self._preparing, again, *asked)
            await self._free()  # it may have been closed meanwhile
            channel = Channel(loop)
            ticket = Ticket([sequence], channel)
            self._worker.submit(ticket)
            self._stream, self._ticket = Stream(channel, 1), ticket
            return self._stream

    async def close(self) -> None:
        """Stop what is running, and forget the sequence."""
        if self._stream is not None:
            await self._stream.aclose()
        self._closed, self._context = True, None

    def _add(self, prompt: Prompt) -> int:
        """Add a prompt, and return its tokens; nothing is added where this raises PlanError."""
        if self._context is None:
            encoded = self._preparation.encode(prompt, self._reading)
        else:
            encoded = self._preparation.encoder.more(prompt)
        self._preparation.room(self.length + len(encoded.ids), 0)
        if self._context is None:
            prefill = Prefill(self._preparation.model, 1)
            self._context = self._preparation.context(self._reading, encoded, prefill)
        self._context.feed(encoded.ids)
        self._fed = encoded
        return len(encoded.ids)

    async def _free(self) -> None:
        """Wait until the worker has left the sequence.

        raises  PlanError    if it is closed, or its answer would be disturbed
                EngineError  if the engine has stopped, or the sequence has failed
        """
        self._worker.check()
        if self._closed:
            raise PlanError("sequence must be open, got one that was closed; open another")
        if self._stream is not None and not self._stream.ended:
            raise PlanError(
                "sequence must have finished its answer, got one that is still written; read its "
                "stream to the end, or close it"
            )
        if self._ticket is not None:  # a stream that was closed early: its last step may still run
            await asyncio.to_thread(self._ticket.left.wait)
        if self._context is not None and self._context.failed:
            raise EngineError("the sequence must be whole, got one that has failed; open another")
