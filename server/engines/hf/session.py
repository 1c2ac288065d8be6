"""A sequence that stays: it is fed, edited, answers, and nothing is read twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar, cast

import torch

from kvedit.diff import alike
from kvedit.reading import Rewinding
from kvedit.segments import Ids
from server.concurrency import unbroken
from server.engines import readings
from server.engines.base import Edit, Fidelity
from server.engines.hf.context import Context
from server.engines.hf.edited import EditedText, Healing
from server.engines.hf.forward import Prefill
from server.engines.hf.preparation import Preparation
from server.engines.hf.sequence import Sequence
from server.engines.hf.stream import Channel, Stream
from server.engines.hf.worker import Ticket, Worker
from server.errors import EngineError, PlanError
from server.job import Cut, ReadingSpec, Sampling
from server.prompt import Prompt
from server.text.prompts import Encoded

P = ParamSpec("P")
T = TypeVar("T")

EDITED = "pie"  # the reading of a text that is edited


class HfSession:
    """One sequence of an `HfEngine` (see `server.engines.base.Session`).

    preparing  where prompts are encoded: one thread, since a tokenizer is not for two

    A text is kept in pieces from its first edit on, or from the beginning where the reading says
    so. Where no one waits, the worker computes what an edit has left to do. A reading that can go
    back keeps what an edited text begins with, and reads the rest anew.
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
        self._text: EditedText | None = None
        if reading is not None and reading.name == EDITED:
            self._text = self._new_text()
        self._context: Context | None = None
        self._fed: Encoded | None = None
        self._stream: Stream | None = None
        self._ticket: Ticket | None = None
        self._closed = False
        self._busy = asyncio.Lock()  # one at a time feeds it, or begins an answer
        self._touched = threading.Lock()  # by whoever changes the text, or computes some of it

    @property
    def length(self) -> int:
        """Return how many tokens it has, those included that it has still to read."""
        return 0 if self._context is None else len(self._context.ids)

    @property
    def nbytes(self) -> int:
        """Return the bytes of its cache, of tokens included that it has still to read."""
        if (reading := self._rewinding) is not None:
            return reading.size
        held = 0 if self._text is None else self._text.reading.size
        return max(held, self.length * self._preparation.token_bytes)

    @property
    def stale_fraction(self) -> float:
        """Return the share of its tokens that are stale."""
        return 0.0 if self._text is None else self._text.stale_fraction

    async def feed(self, prompt: Prompt) -> int:
        """Add a prompt at the end; the first is cut as the reading asks, later ones stay whole."""
        async with self._alone():
            return await self._prepared(self._add, prompt)

    async def reusable(self, prompt: Prompt) -> int:
        """Return how many tokens that a prompt begins with it would not read again."""
        return await self._prepared(self._reusable, prompt)

    async def edit(self, prompt: Prompt, *, exact: bool = False) -> Edit:
        """Make it another prompt, of which is kept what may stay (see `Session.edit`).

        raises  PlanError  for a sequence whose reading can neither be edited nor go back
        """
        async with self._alone():
            return await self._prepared(self._edit, prompt, exact=exact)

    async def fidelity(self, prompt: Prompt) -> Fidelity:
        """Edit it, and compare the next token with that of the text read anew: takes as long."""
        async with self._alone():
            await self._prepared(self._edit, prompt)
            if self._text is None:
                return Fidelity(0.0, True)  # a text that is computed whole each time
            measured = self._worker.call(partial(self._fidelity, self._text))
            return cast("Fidelity", await unbroken(asyncio.wrap_future(measured)))

    async def generate(self, sampling: Sampling) -> Stream:
        """Answer after what was fed, or edited."""
        async with self._alone():
            if self._context is None or self._fed is None:
                raise PlanError("sequence must be fed before it answers, got nothing; feed it")
            sequence = await self._prepared(self._again, self._context, sampling, self._fed)
            self._check()  # it may have been closed meanwhile
            channel = Channel(asyncio.get_running_loop())
            ticket = Ticket([sequence], channel)
            self._worker.submit(ticket)
            self._stream, self._ticket = Stream(channel, 1), ticket
            return self._stream

    async def close(self) -> None:
        """Stop what is running, and forget the sequence."""
        if self._stream is not None:
            await self._stream.aclose()
        self._closed, self._context, self._text = True, None, None

    def _add(self, prompt: Prompt) -> int:
        """Add a prompt, and return its tokens; nothing is added where this raises PlanError."""
        if self._context is None:
            encoded = self._preparation.encode(prompt, self._cut)
        else:
            endless = readings.endless(self._reading)
            encoded = self._preparation.encoder.more(prompt, endless=endless)
        self._preparation.room(self.length + len(encoded.ids), 0, self._reading)
        if self._text is not None:
            self._become(self._text, (*self._ids, *encoded.ids))
        else:
            if self._context is None:
                prefill = Prefill(self._preparation.model, 1)
                self._context = self._preparation.context(self._reading, encoded, prefill)
            self._context.feed(encoded.ids)
        self._fed = encoded
        return len(encoded.ids)

    def _edit(self, prompt: Prompt, *, exact: bool = False) -> Edit:
        """Make it another prompt; it is as before where this raises PlanError."""
        if self._reading is not None and self._reading.name != EDITED:
            return self._rewind(self._reading, prompt)
        encoded = self._preparation.encode(prompt, None)
        self._preparation.room(len(encoded.ids), 0)
        if self._text is None:
            self._context = None
            if self._preparation.refusal(ReadingSpec(EDITED)) is not None:
                return self._anew(encoded)
            self._text = self._new_text()
        edit = self._become(self._text, encoded.ids, exact=exact)
        self._fed = encoded
        return edit

    def _become(self, text: EditedText, ids: Ids, *, exact: bool = False) -> Edit:
        edit = text.become(self._ids, ids, exact=exact)
        if self._context is None:
            self._context = Context(text.forward, self._preparation.door.device)
        self._context.become(ids, text.ready())
        text.forward.ids = self._context.ids  # the answer's too, as they come
        return edit

    @torch.inference_mode()  # as the cache was made, which is written on here
    def _rewind(self, spec: ReadingSpec, prompt: Prompt) -> Edit:
        """Make it another prompt: go back to where that differs, or read it from its beginning."""
        if not readings.endless(spec):  # the others cannot go back
            raise PlanError(
                f"a text that is edited must be read plainly, got stage {spec.name!r}; leave it "
                "out",
                param="stages",
            )
        encoded = self._preparation.encode(prompt, spec)
        self._preparation.room(len(encoded.ids), 0, spec)
        kept, reading = self._begun(encoded.ids), self._rewinding
        if kept and reading is not None and self._context is not None:
            reading.rewind(kept)
            self._context.again(encoded.ids)
            self._fed = encoded
            return Edit(kept, 0, len(encoded.ids) - kept)
        made = self._preparation.context(spec, encoded, Prefill(self._preparation.model, 1))
        return self._anew(encoded, made)

    def _anew(self, encoded: Encoded, context: Context | None = None) -> Edit:
        """Read a prompt from its beginning: the model cannot be read in pieces.

        context  that is to read it, empty; None = as the model does it by itself
        """
        if context is None:
            prefill = Prefill(self._preparation.model, 1)
            context = self._preparation.context(None, encoded, prefill)
        context.feed(encoded.ids)
        self._context, self._fed = context, encoded
        return Edit(0, 0, len(encoded.ids))

    def _reusable(self, prompt: Prompt) -> int:
        """Return how many tokens a prompt begins with that stay if it becomes the prompt."""
        if self._closed or self._context is None or self._context.failed:
            return 0
        cut: Cut = "whole" if self._cut is None else self._cut.cut
        # it is asked of several sequences, and then comes itself
        endless = readings.endless(self._reading)
        return self._begun(self._preparation.encoder.check(prompt, cut, endless=endless).ids)

    def _begun(self, ids: Ids) -> int:
        """Return how many tokens stay of those that it has read; the last is read in any case."""
        reading = self._rewinding if self._text is None else self._text.reading
        if reading is None:
            return 0
        kept = alike(self._ids[: reading.length], ids[:-1])
        least = reading.back_to if isinstance(reading, Rewinding) else 0
        return kept if kept >= least else 0

    @property
    def _rewinding(self) -> Rewinding | None:
        """Return the reading of a sequence that can go back."""
        if self._text is not None or self._reading is None or self._context is None:
            return None
        reading = self._context.forward.reading()
        return reading if isinstance(reading, Rewinding) else None

    def _again(self, context: Context, sampling: Sampling, encoded: Encoded) -> Sequence:
        """Return an answer to what the sequence has now."""
        if self._text is not None:
            # it may have been answered since, and some of it computed in an idle moment
            self._become(self._text, tuple(context.ids))
        return self._preparation.again(context, sampling, encoded, self._reading)

    def _heal(self) -> bool:
        """Compute some of an edited text in an idle moment; return whether there is more."""
        text, ticket = self._text, self._ticket
        if text is None or (ticket is not None and not ticket.left.is_set()):
            return False
        if not self._touched.acquire(blocking=False):
            return False  # whoever changes it asks for the next moment
        try:
            return text.heal()
        except Exception:
            self._fail()
            raise
        finally:
            self._touched.release()

    def _fidelity(self, text: EditedText) -> Fidelity:
        try:
            return text.fidelity()
        except Exception:
            self._fail()
            raise

    def _fail(self) -> None:
        """Take note that a forward has failed: what was read by it means nothing."""
        if self._context is not None:
            self._context.failed = True

    @property
    def _ids(self) -> list[int]:
        return [] if self._context is None else self._context.ids

    @property
    def _cut(self) -> ReadingSpec | None:
        """Return the reading by which the first prompt is cut."""
        return None if self._text is not None else self._reading

    def _new_text(self) -> EditedText:
        return EditedText(
            self._preparation.door, Healing.of(self._reading), self._preparation.encoder.control
        )

    async def _prepared(self, call: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Call what changes the text where prompts are encoded; who is cancelled waits for it."""
        work = partial(call, *given, **named)
        return await unbroken(asyncio.get_running_loop().run_in_executor(self._preparing, work))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Have the sequence for oneself: no answer is written, and nothing of it is computed."""
        async with self._busy:
            await self._free()
            # held for a chunk at most; a thread that waited for it would outlive who is cancelled
            while not self._touched.acquire(blocking=False):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            try:
                yield
            finally:
                self._touched.release()
                if self._text is not None:
                    self._worker.when_idle(self._heal)

    def _check(self) -> None:
        """Raise for a sequence that is closed, or has failed (PlanError, EngineError)."""
        self._worker.check()
        if self._closed:
            raise PlanError("sequence must be open, got one that was closed; open another")
        if self._context is not None and self._context.failed:
            raise EngineError("the sequence must be whole, got one that has failed; open another")

    async def _free(self) -> None:
        """Wait until the worker has left the sequence.

        raises  PlanError    if it is closed, or its answer would be disturbed
                EngineError  if the engine has stopped, or the sequence has failed
        """
        self._check()
        if self._stream is not None and not self._stream.ended:
            raise PlanError(
                "sequence must have finished its answer, got one that is still written; read its "
                "stream to the end, or close it"
            )
        if self._ticket is not None:  # a stream that was closed early: its last step may still run
            await asyncio.to_thread(self._ticket.left.wait)
        self._check()
